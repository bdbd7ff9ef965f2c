"""Write pages of examples as notebooks beside them, without outputs: python tools/notebooks.py."""

import json
import re
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
NAMES = "brownian-spheres", "logistic-regression"


def notebook(page: str) -> str:
    """Text of the notebook of a page: what it says, and its Python, which shows figures where the page keeps them."""
    cells: list[dict[str, object]] = []
    for place, text in enumerate(re.split(r"^```(?:python)?$", page, flags=re.MULTILINE)):
        kind = "code" if place % 2 else "markdown"
        if kind == "code":
            source = re.sub(r"^figure\.savefig\(.*\)$", "figure", text.strip(), flags=re.MULTILINE)
        else:
            kept = [part for part in text.strip().split("\n\n") if not re.search(r"^!\[|\.ipynb\)", part)]
            source = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", "\n\n".join(kept))  # links lead nowhere from there
        if source:
            more: dict[str, object] = {"execution_count": None, "outputs": []} if kind == "code" else {}
            lines = source.splitlines(keepends=True)
            cells.append({"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, **more, "source": lines})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in NAMES:
        page = (EXAMPLES / f"{name}.md").read_text(encoding="utf-8")
        (EXAMPLES / f"{name}.ipynb").write_text(notebook(page), encoding="utf-8")
