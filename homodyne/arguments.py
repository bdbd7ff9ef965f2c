"""Arguments of public functions: everything that is wrong with them is reported at once, before work starts."""

from collections.abc import Callable, Iterable
from math import inf, isfinite
from numbers import Integral, Real
from types import TracebackType
from typing import Any, TypeVar

from homodyne.errors import InputError

Found = TypeVar("Found")


class Faults:
    """Collects what is wrong with arguments; at the end of its ``with`` block all of it is one `InputError`."""

    def __init__(self) -> None:
        self.found: list[InputError] = []

    def of(self, check: Callable[..., Found], *given: Any, **named: Any) -> Found:
        """Return what a function returns; inside the ``with`` block also None, where it raises an `InputError`."""
        try:
            return check(*given, **named)
        except InputError as error:
            self.found.append(error)
            return None  # type: ignore[return-value]  # nothing behind the block sees it

    def integer(self, name: str, value: Any, least: int = 0) -> None:
        """Note anything but an integer of `least` or more."""
        if isinstance(value, bool) or not isinstance(value, Integral):
            self.add(f"{name} is {value!r}, must be an integer of {least} or more")
        elif value < least:
            self.add(f"{name} is {value}, must be at least {least}")

    def number(
        self, name: str, value: Any, *, above: float = -inf, least: float = -inf, most: float = inf, below: float = inf
    ) -> None:
        """Note anything but a finite number inside the limits; `least` and `most` are allowed, the others are not."""
        if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(number := float(value)):
            self.add(f"{name} is {value!r}, must be a finite number")
        elif not (above < number < below and least <= number <= most):
            limits = {"above": above, "at least": least, "at most": most, "below": below}
            bounds = [f"{words} {limit:g}" for words, limit in limits.items() if isfinite(limit)]
            self.add(f"{name} is {value}, must be {' and '.join(bounds)}")

    def choice(self, name: str, value: Any, known: Iterable[str]) -> None:
        """Note anything but one of the known words."""
        if value not in (words := list(known)):
            self.add(f"unknown {name} {value!r}; use one of {', '.join(words)}")

    def kind(self, name: str, value: Any, *kinds: type) -> None:
        """Note anything but None and instances of some types."""
        if value is not None and not isinstance(value, kinds):
            self.add(f"{name} is {value!r:.80}, expected {' or '.join(kind.__name__ for kind in kinds)}")

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
