"""How much a command tells: ``--verbose`` of all, and ``--quiet`` of those whose result is a file."""

import functools
import inspect
import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated

import typer

from homodyne.cli.terminal import quietly

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tell each step.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only warnings, errors, and what --json asks for.")]


def telling(command: Callable[..., None], *, silent: bool) -> Callable[..., None]:
    """Return a command that takes ``--verbose`` behind its name too, and, where it can be silent, ``--quiet``."""

    @functools.wraps(command)
    def told(*arguments: object, verbose: bool = False, quiet: bool = False, **options: object) -> None:
        if verbose:
            logging.getLogger("homodyne").setLevel(logging.INFO)
        with quietly() if quiet else nullcontext():
            command(*arguments, **options)

    own = inspect.signature(command, eval_str=True)
    more = {"verbose": Verbose, **({"quiet": Quiet} if silent else {})}
    further = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in more.items()
    ]
    told.__signature__ = own.replace(parameters=[*own.parameters.values(), *further])  # type: ignore[attr-defined]
    told.__annotations__ = {**command.__annotations__, **more}
    return told
