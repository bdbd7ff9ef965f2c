"""Settings of Sphinx for the site that ``make docs`` builds; nothing is fetched while it is built or looked at."""

import shutil
from pathlib import Path

from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

import homodyne
from homodyne.cli.program import app

GENERATED = Path(__file__).parent / "reference" / "generated"

project = "homodyne"
author = copyright = "homodyne developers"  # noqa: A001  Sphinx's name
version = release = homodyne.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "reference/generated/command-line.md"]
html_theme = "furo"
html_title = "homodyne"
html_show_sourcelink = False

myst_heading_anchors = 3
highlight_language = "none"  # indented blocks hold formulas and output
suppress_warnings = [
    "myst.header",  # the text of commands has sections of its own
    "ref.python",  # words of docstrings, such as mean, that are names of several attributes too
]

autosummary_generate = True
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "no-value": True}
napoleon_google_docstring = False
napoleon_use_ivar = True
templates_path = ["_templates"]
default_role = "code"

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", "(?!homodyne).*"),  # words of other packages, and shapes in place of types
    ("py:class", r"homodyne\.config\.schema\..*"),  # sections: the page on configuration has their keys
    ("py:class", r"homodyne\.(likelihood|optimization|certificate)\..*"),  # records that stay inside the engine
    ("py:class", r"homodyne\.result\.(summary|comparison)\..*"),  # lines of tables
    ("py:class", r"homodyne\.(registries\.T|physics\.model\.Kind)"),  # what a registry holds, and what it is given
]


def _write_command_line() -> None:
    """The text of ``homodyne --help`` and of every command, from the program itself."""
    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command, info_name="homodyne"), name="homodyne")
    (GENERATED / "command-line.md").write_text(text.partition("**Usage**")[2].join(["**Usage**", ""]), encoding="utf-8")


shutil.rmtree(GENERATED, ignore_errors=True)  # pages of names that are no longer there
GENERATED.mkdir()
_write_command_line()
