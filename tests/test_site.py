"""The site of the documentation builds without a warning, fetches nothing, and knows public names and messages."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from sphinx.util.inventory import InventoryFile

from homodyne.errors import ExecutionError, InputError

ROOT = Path(__file__).resolve().parent.parent
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
CMC = "homodyne.optimization.cmc"
MODULES = (
    "homodyne",
    "homodyne.config.io",
    "homodyne.data",
    "homodyne.device.config",
    "homodyne.errors",
    "homodyne.optimization.mcmc",
    CMC,
    *(f"{CMC}.{name}" for name in ["coordinator", "sharding", "svi_init", "combination", "diagnostics", "backends"]),
    *(f"{CMC}.backends.{name}" for name in ["base", "selection", "pjit", "multiprocessing", "pbs"]),
    "homodyne.result.record",
    "homodyne.testing",
    "homodyne.viz",
)
"""Modules that the developer guide, README and pages name."""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("site")
    built = shutil.ignore_patterns("_build", "generated", "__pycache__")
    shutil.copytree(ROOT / "docs", place / "docs", ignore=built)
    shutil.copy(ROOT / "CHANGELOG.md", place)
    command = ["-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going", "--quiet", "docs", "html"]
    done = subprocess.run([sys.executable, *command], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "html"


class Tags(HTMLParser):
    """Every address of a page with the tag that has it, and every anchor."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[tuple[str, str]] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given.get("id"), given.get("name")} - {None}
        address = given.get(FETCHED.get(tag, "href"))
        if address:
            self.addresses.append((tag, address))


def fetched(tags: Tags) -> list[str]:
    return [address for tag, address in tags.addresses if tag in FETCHED and urlsplit(address).netloc]


def test_nothing_is_fetched_and_links_lead_somewhere(site):
    pages = {page: Tags(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert len(pages) > 40
    for page, tags in pages.items():
        assert fetched(tags) == [], page
        for _, address in tags.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.exists(), f"{page.name}: {address}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{page.name}: {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_fetching_is_seen():
    assert fetched(Tags('<script src="https://cdn.example/x.js"></script><img src="images/x.png">')) == [
        "https://cdn.example/x.js"
    ]
    assert fetched(Tags('<link rel="stylesheet" href="//cdn.example/x.css"><a href="https://doi.org/1"></a>')) == [
        "//cdn.example/x.css"
    ]


def public(module: str) -> list[str]:
    found = importlib.import_module(module)
    own = (name for name, value in vars(found).items() if getattr(value, "__module__", None) == module)
    return getattr(found, "__all__", None) or [name for name in own if callable(vars(found)[name]) and name[0] != "_"]


def found_at(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def lacking(module: str, documented: list[object]) -> list[str]:
    """Public names of a module that are none of the documented objects, whatever path these are documented under."""
    return [name for name in public(module) if not any(found_at(f"{module}.{name}") is one for one in documented)]


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_in_the_reference(site, module):
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    kinds = ("py:function", "py:class", "py:exception", "py:data")
    entries = {path for kind in kinds for path in inventory.get(kind, {})}
    assert lacking(module, [found_at(path) for path in entries]) == []


def test_a_name_that_is_not_documented_is_seen():
    assert lacking("homodyne.errors", [ExecutionError, InputError]) == [
        name for name in public("homodyne.errors") if name not in ("ExecutionError", "InputError")
    ]


def text_of(node: ast.AST) -> str:
    """A text of the source, with … in place of values."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ""


def test_messages_of_troubleshooting_exist():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [line.removeprefix("> ") for line in page.splitlines() if line.startswith("> ")]
    sources = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "homodyne").rglob("*.py")]
    texts = "\n".join(text for source in sources for node in ast.walk(source) if (text := text_of(node)))
    assert len(quoted) > 30
    planted = "the frobnicator of shard … is missing"
    assert [message for message in [*quoted, planted] if message not in texts] == [planted]
