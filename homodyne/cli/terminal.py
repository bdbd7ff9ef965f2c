"""What reaches the terminal: text without control characters, as wide as it is, and how far a long computation is."""

import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

EVERY = 30.0  # seconds between two lines, at least
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    """Text whose control characters, which names in files may hold, are written as escapes."""
    return _CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode(), str(text))


def say(text: object = "", *, end: str = "\n", error: bool = False, wrap: bool = True) -> None:
    """Print text on the terminal, or on that for errors, as `printable` leaves it.

    Lines longer than that of a terminal go on below where their second column begins, unless `wrap` is false, as for
    what may be copied into a file. Within `quietly` there are only lines for errors.
    """
    if _quiet.get() and not error:
        return
    width, lines = columns(error=error) if wrap else None, printable(text)
    if width is not None:
        lines = "\n".join(_wrapped(line, width) for line in lines.split("\n"))
    print(lines, end=end, file=sys.stderr if error else sys.stdout)


@contextmanager
def quietly() -> Iterator[None]:
    """Print nothing but what is said of errors, and show no progress, in the block."""
    before = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(before)


def columns(*, error: bool = False) -> int | None:
    """Characters in a line of the terminal, at least 20; None of a file or a pipe, whose lines have no end."""
    stream = sys.stderr if error else sys.stdout
    return max(shutil.get_terminal_size().columns, 20) if stream.isatty() else None


def _wrapped(line: str, width: int) -> str:
    """Line that is cut between words, never within a number and its error."""
    if len(line) <= width:
        return line
    second = re.match(r" *[^\s:]+(?: [^\s:]+)*?(:? +)(?<=  |: )(?=\S)", line)
    near = second is not None and second.end() <= (width // 4 if second[1] == ": " else width // 2)
    start = second.end() if second and near else len(line) - len(line.lstrip()) + 2
    whole = line.replace(" ± ", "\xa0±\xa0")
    parts = textwrap.wrap(whole, width, subsequent_indent=" " * start, break_long_words=False, break_on_hyphens=False)
    return "\n".join(parts).replace("\xa0±\xa0", " ± ")


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show how far a computation is, and how long its stage will still take: by bars, or lines where no terminal is.

    Yields
    ------
    A function of stage, steps done and steps in total.
    """
    if _quiet.get():
        yield lambda stage, done, total: None
        return
    if not sys.stderr.isatty():
        yield ProgressLines(lambda line: say(line, error=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as display:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = display.add_task(stage, total=total)
            display.update(bars[stage], completed=done, total=total)

        yield report


class ProgressLines:
    """Tells stage and remaining time in a line every `EVERY` seconds at most.

    Parameters
    ----------
    write
        Called with a line.
    clock
        Seconds since some moment.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._last = clock()
        self._stage, self._began, self._before = "", self._last, 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note that some steps of a stage are done."""
        now = self._clock()
        if stage != self._stage or done < self._before:  # another, or the same once more
            self._stage, self._began = stage, now
        self._before = done
        if now - self._last < EVERY:
            return
        self._last = now
        left = (now - self._began) * (total - done) / done if done else 0.0
        more = f", about {_words(left)} left" if 0 < done < total and left else ""
        self._write(f"{stage}: {done} of {total}{more}")


def _words(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
