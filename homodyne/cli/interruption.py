"""What remains of a command that was interrupted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(BaseException):
    """The user or the system asked the program to stop."""


@contextmanager
def told_when_interrupted(remains: Callable[[], str]) -> Iterator[None]:
    """Attach to what interrupts the block a sentence on what it leaves behind.

    Parameters
    ----------
    remains
        Returns the sentence, or an empty text when nothing is left.
    """
    try:
        yield
    except (Interrupted, RuntimeError, ValueError) as error:  # compiled code makes others of the first
        if sentence := remains():
            error.add_note(sentence)
        raise


def remains_of(error: BaseException) -> str:
    """Sentence on what an interrupted block has left behind; empty when it is nothing."""
    return "; ".join(getattr(error, "__notes__", ()))
