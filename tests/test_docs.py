"""README and docs: Python and bash blocks run, files are written, links lead somewhere, the keys are the schema's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from homodyne.config.io import load_config
from homodyne.config.problems import known_keys
from homodyne.config.schema import Config

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (?:exit (?P<code>\d+)|file (?P<file>\S+)) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as for a script that lies there
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": search}
    if page.stem == "README":  # as users have it, with programs that are compiled in full
        del environment["XLA_FLAGS"]
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["text"], encoding="utf-8")
        elif block["language"] == "python":
            exec(compile(block["text"], f"{page.name}: {block['text'][:40]!r}", "exec"), names)
        elif block["language"] == "bash":
            done = subprocess.run(
                ["bash", "-euc", block["text"]],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == int(block["code"] or 0), block["text"] + done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def table_of_keys() -> str:
    """The configuration reference, from the schema."""
    lines = ["| key | default | |", "|---|---|---|"]
    defaults = load_config().model_dump()
    for path in known_keys():
        field, value = None, defaults
        section = Config
        for name in path.split("."):
            field = section.model_fields[name]
            section = field.annotation
            value = value[name]
        if isinstance(value, dict) and not path.startswith("parameters."):
            continue
        if path.count(".") > 1 and path.startswith("parameters."):
            continue
        if path.startswith("parameters."):
            prior = value.get("prior")
            shown = f"{prior['type']}({prior['mean']:g}, {prior['sd']:g})" if prior else ""
        else:
            shown = "" if value is None else f"{value}".lower() if isinstance(value, bool) else f"{value}"
        lines.append(f"| `{path}` | {f'`{shown}`' if shown else ''} | {field.description} |")
    return "\n".join(lines)


def test_table_of_keys_is_the_schema():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    table = table_of_keys()
    assert table in page, f"replace the table in docs/configuration.md by\n{table}"
