"""Every exception and warning that homodyne raises on purpose.

The command line turns ``exit_code`` into the exit status of the process, so that a script can tell wrong input
(2) from a posterior that cannot be trusted (3) and from a failed execution (4).
"""

from collections.abc import Sequence


class HomodyneError(Exception):
    """Base of all errors raised by homodyne."""

    exit_code = 4


class InputError(HomodyneError, ValueError):
    """Something the user gave is wrong; the message names the value, what was expected and what to do.

    Parameters
    ----------
    message
        One sentence, or the heading of several.
    problems
        The sentences, where there are several or a heading is wanted.
    """

    exit_code = 2

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join([message, *problems]))
        self.problems = tuple(problems) or (message,)


class DataError(InputError):
    """A data file or array cannot be used."""


class ConfigError(InputError):
    """A configuration value cannot be used; the message carries the path of the key."""


class ConvergenceError(HomodyneError, RuntimeError):
    """A numerical procedure did not reach an answer that can be trusted."""

    exit_code = 3


class ExecutionError(HomodyneError, RuntimeError):
    """The machinery failed: a worker, a scheduler, the disk."""

    exit_code = 4


class HomodyneWarning(UserWarning):
    """Something was done that the user should know of."""
