"""Arguments of public functions: everything that is wrong with them is reported at once, before work starts."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import inf, isfinite
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from homodyne.errors import InputError

Found = TypeVar("Found")

Json: TypeAlias = Any
"""What JSON can hold: None, a boolean, number or text, a list of such values, or a mapping of them by name."""

MOST = 2**53
"""Largest integer, of a seed for example."""


def shown(value: object, most: int = 60) -> str:
    """What stands for a value in a message: one line, shortened; its type where it cannot be written."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001  an integer of too many digits, or whatever a class of somebody's does
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def as_path(name: str, value: object) -> Path:
    """Return a path.

    Raises
    ------
    InputError
        It is none, or one that no system can have.
    """
    if not isinstance(value, str | os.PathLike) or "\0" in (text := str(os.fspath(value))):
        raise InputError(f"{name} is {shown(value)}; expected the path of a file or folder")
    return Path(text)


def as_mapping(name: str, value: object, of: str = "values by name") -> Mapping[Any, Any]:
    """Return a mapping, an empty one for None.

    Raises
    ------
    InputError
        It is something else.
    """
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{name} is {shown(value)}; expected a mapping of {of}")
    return value or {}


def as_names(name: str, value: object, count: int | None = None) -> tuple[str, ...]:
    """Return different texts as a tuple, of which there are `count`.

    Raises
    ------
    InputError
        They are not.
    """
    given: list[object] = []
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        with suppress(TypeError):  # an array without an axis
            given = list(value)
    names = tuple(one for one in given if isinstance(one, str))
    if not names or len(names) != len(given) or len(set(names)) != len(names):
        raise InputError(f"{name} is {shown(value)}; expected different names, one for each parameter")
    if count not in (None, len(names)):
        raise InputError(f"{name} is {shown(value)}; expected {count} names, one for each parameter")
    return names


def require_list(name: str, value: object, of: str) -> list[Any] | tuple[Any, ...]:
    """Return a list or tuple, or refuse anything else.

    Raises
    ------
    InputError
        The message says of what it is expected.
    """
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} is {shown(value)}; expected a list of {of}")
    return value


def require_mappings(name: str, value: object, of: str) -> None:
    """Refuse anything but a list or tuple of mappings, one at least.

    Raises
    ------
    InputError
        The message says of what it is expected.
    """
    given = require_list(name, value, of)
    if not given:
        raise InputError(f"there are no {name}; expected {of}")
    for k, one in enumerate(given):
        if not isinstance(one, Mapping):
            raise InputError(f"{name}[{k}] is {shown(one)}; expected a mapping")


def _finite(value: object) -> float | None:
    """A real number that a float can hold, also in an array without axes; None of anything else."""
    if getattr(value, "shape", None) == ():
        value = getattr(value, "tolist", lambda: value)()  # None of a masked one
    try:
        number = inf if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None


class Faults:
    """Collects what is wrong with arguments; at the end of its ``with`` block all of it is one `InputError`."""

    def __init__(self) -> None:
        self.found: list[InputError] = []

    def of(self, check: Callable[..., Found], *given: object, **named: object) -> Found:
        """Return what a function returns; inside the ``with`` block also None, where it raises an `InputError`."""
        try:
            return check(*given, **named)
        except InputError as error:
            self.found.append(error)
            return None  # type: ignore[return-value]  # nothing behind the block sees it

    def integer(self, name: str, value: object, least: int = 0) -> None:
        """Note anything but an integer of `least` or more, which a float can hold."""
        number = getattr(value, "tolist", lambda: value)()
        if isinstance(value, bool) or not isinstance(number, Integral):
            self.add(f"{name} is {shown(value)}, must be an integer of {least} or more")
        elif int(number) < least:
            self.add(f"{name} is {shown(value)}, must be at least {least}")
        elif int(number) > MOST:
            self.add(f"{name} is {shown(value)}, must be at most {MOST}")

    def number(
        self,
        name: str,
        value: object,
        *,
        above: float = -inf,
        least: float = -inf,
        most: float = inf,
        below: float = inf,
    ) -> None:
        """Note anything but a finite number inside the limits; `least` and `most` are allowed, the others are not."""
        if (number := _finite(value)) is None:
            self.add(f"{name} is {shown(value)}, must be a finite number")
        elif not (above < number < below and least <= number <= most):
            limits = {"above": above, "at least": least, "at most": most, "below": below}
            bounds = [f"{words} {limit:g}" for words, limit in limits.items() if isfinite(limit)]
            self.add(f"{name} is {value}, must be {' and '.join(bounds)}")

    def choice(self, name: str, value: object, known: Iterable[str]) -> None:
        """Note anything but one of the known words."""
        words = list(known)
        if not isinstance(value, str) or value not in words:
            self.add(f"unknown {name} {shown(value)}; use one of {', '.join(words)}")

    def kind(self, name: str, value: object, *kinds: type) -> None:
        """Note anything but None and instances of some types."""
        if value is not None and not isinstance(value, kinds):
            self.add(f"{name} is {shown(value)}, expected {' or '.join(kind.__name__ for kind in kinds)}")

    def function(self, name: str, value: object, needed: bool = False) -> None:
        """Note anything but what can be called, and None where it is not needed."""
        if (needed or value is not None) and not callable(value):
            self.add(f"{name} is {shown(value)}, expected a function")

    def add(self, sentence: str) -> None:
        """Note a fault."""
        self.found.append(InputError(sentence))

    def __enter__(self) -> "Faults":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or not self.found:
            return
        if len(self.found) == 1:
            raise self.found[0]
        problems = [problem for fault in self.found for problem in fault.problems]
        raise InputError(f"{len(problems)} problems:", problems)
