from collections.abc import Callable
from dataclasses import dataclass

import pytest

from homodyne.cli.program import run


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code and texts."""

    code: int
    out: str
    err: str


@pytest.fixture
def homodyne(capsys, tmp_path, monkeypatch) -> Callable[..., Outcome]:
    """Run the program in an empty folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Outcome:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
