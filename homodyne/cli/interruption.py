"""What remains of a command that was interrupted or failed, and blocks that an interruption may not cut in two."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Interrupted(BaseException):
    """The user or the system asked the program to stop."""


@dataclass
class _Hold:
    """Blocks that run now and may not be interrupted, and whether an interruption waits for their end."""

    blocks: int = 0
    waiting: bool = False


_hold = _Hold()


def interrupt() -> None:
    """Raise `Interrupted`, at the end of the block where one of `uninterrupted` runs."""
    if _hold.blocks:
        _hold.waiting = True
        return
    raise Interrupted


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let an interruption wait until the block has ended."""
    _hold.blocks += 1
    try:
        yield
    finally:
        _hold.blocks -= 1
        late = _hold.waiting and not _hold.blocks
        _hold.waiting = _hold.waiting and not late
    if late:
        raise Interrupted


@contextmanager
def telling_what_remains(remains: Callable[[], str]) -> Iterator[None]:
    """Attach to whatever ends the block early a sentence on what is there then.

    Parameters
    ----------
    remains
        Looks, and returns the sentence, or an empty text when nothing is left.
    """
    try:
        yield
    except BaseException as error:
        if sentence := remains():
            error.add_note(sentence)
        raise


def remains_of(error: BaseException) -> str:
    """Sentence on what a block has left behind; empty when it is nothing."""
    return "; ".join(getattr(error, "__notes__", ()))
