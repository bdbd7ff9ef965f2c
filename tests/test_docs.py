"""README and docs: Python and bash blocks run, files are written, links lead somewhere, the keys are the schema's."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homodyne.cli.program import run
from homodyne.config.io import load_config, resolve
from homodyne.config.physics import model_of
from homodyne.config.schema import ParameterConfig, ScalingConfig, Section, keys_of
from homodyne.physics.model import MODELS
from tools.notebooks import EXAMPLES, NAMES, notebook

ROOT = Path(__file__).resolve().parent.parent
BUILT = {"_build", "generated"}
FOUND = sorted(page.relative_to(ROOT) for page in (ROOT / "docs").rglob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *(ROOT / page for page in FOUND if not BUILT & {*page.parts})]
NOTEBOOKS = [EXAMPLES / f"{name}.ipynb" for name in NAMES]
BLOCK = re.compile(
    r"(?:<!-- (?:exit (?P<code>\d+)|file (?P<file>\S+)) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def commands_of(block: str) -> list[list[str]]:
    """Arguments of every line of a block that is nothing but calls of the program; none for any other block.

    These run in this process, which has compiled most of what they need.
    """
    lines = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
    calls = [line for line in lines if line]
    shell = re.search(r"[|&;<>$`*?~]|^\w+=", "\n".join(shlex.join(line) for line in calls).replace("'", ""))
    return [] if shell or any(line[0] != "homodyne" for line in calls) else [line[1:] for line in calls]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_say_what_their_pages_say(file):
    page = file.with_suffix(".md").read_text(encoding="utf-8")
    assert file.read_text(encoding="utf-8") == notebook(page), "run tools/notebooks.py"
    assert f"({file.name})" in page


def shown(cell: str, names: dict[str, object]) -> object:
    """Run a cell as notebooks do, and return what they show of the value of its last line."""
    *lines, last = ast.parse(cell).body
    if not isinstance(last, ast.Expr):
        exec(cell, names)
        return None
    exec(compile(ast.Module(lines, []), "<cell>", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    return value._repr_png_() if hasattr(value, "_repr_png_") else repr(value)


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_run_and_show_their_figures(file):
    names: dict[str, object] = {"__name__": "__main__"}
    cells = ["".join(cell["source"]) for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]
             if cell["cell_type"] == "code"]  # fmt: skip
    seen = [shown(cell, names) for cell in cells]
    assert len(seen) > 1
    assert seen[-1].startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.with_suffix(".ipynb") not in NOTEBOOKS],
    ids=lambda page: f"{page.relative_to(ROOT)}",
)
def test_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as for a script that lies there
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": search}
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["text"], encoding="utf-8")
        elif block["language"] == "python":
            exec(compile(block["text"], f"{page.name}: {block['text'][:40]!r}", "exec"), names)
        elif block["language"] == "bash":
            expected, commands = int(block["code"] or 0), commands_of(block["text"])
            if page.stem == "README" or not commands:
                done = subprocess.run(
                    ["bash", "-euc", block["text"]], env=environment, capture_output=True, text=True, check=False
                )
                assert done.returncode == expected, block["text"] + done.stdout + done.stderr
            for place, command in enumerate(commands if page.stem != "README" else ()):
                code, printed = run(command), capsys.readouterr()
                assert code == (expected if place + 1 == len(commands) else 0), f"{command}{printed.out}{printed.err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.relative_to(ROOT)}")
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def rows(section: Section, model: Any = None, path: str = "") -> Iterator[str]:
    """A row of a table for every key; without a model one for each of the two sections that are the model's."""
    values = dict(section)
    for key in keys_of(type(section), model):
        value, name = values[key.name], f"{path}{key.name}"
        if model is None and name in ("model", "parameters"):
            yield row(f"{name}.NAME", None, key.description)
        if key.section is None or isinstance(value, ParameterConfig | ScalingConfig):
            yield row(name, value, key.description)
        else:
            yield from rows(value, model, f"{name}.")


def row(key: str, value: Any, description: str) -> str:
    if isinstance(value, ParameterConfig | ScalingConfig):
        kind, *arguments = (value.prior or ParameterConfig()).model_dump().values()
        value = f"{kind}({', '.join(f'{x:g}' for x in arguments)})" if value.prior else f"fixed at {value.fixed:g}"
    shown = "" if value is None else f"{value}".lower() if isinstance(value, bool) else f"{value}"
    return f"| `{key}` | {f'`{shown}`' if shown else ''} | {description} |"


def table(lines: Iterator[str]) -> str:
    return "\n".join(["| key | default | |", "|---|---|---|", *lines])


def table_of_model(name: str) -> str:
    config = resolve(load_config({"analysis_mode": name}))
    model = model_of(config)
    ours = (section for key, section in config if key in ("model", "parameters"))
    lines = [
        line
        for part, section in zip(("model.", "parameters."), ours, strict=True)
        for line in rows(section, model, part)
    ]
    return f"### `{name}`\n\n{table(line for line in lines if not line.startswith(SCALING))}\n"


SCALING = ("| `parameters.contrast`", "| `parameters.offset`")


@pytest.mark.parametrize("made", [table(rows(load_config())), *map(table_of_model, MODELS)])
def test_tables_of_keys_are_the_schemas_and_the_models(made):
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert made in page, f"replace the table in docs/configuration.md by\n{made}"
