"""How much code there is: lines that are neither empty nor comments nor documentation."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from benchmarks.page import Row

PARTS = ("physics", "noise", "likelihood", "optimization")


def code_lines(source: str) -> int:
    """Number of lines with code."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def run(small: bool = False) -> Iterator[Row]:
    """Rows of the table."""
    counts = {
        part: sum(
            code_lines(file.read_text()) for file in Path("homodyne", part).rglob("*.py") if "cmc" not in file.parts
        )
        for part in PARTS
    }
    told = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    yield Row("physics, noise, likelihood and optimization without cmc", f"{sum(counts.values()):,}", "< 4,300")
    yield Row("of these", told)
