"""``homodyne config``: write and check configuration files."""

import json
from pathlib import Path
from typing import Annotated

import typer

from homodyne.cli.terminal import say
from homodyne.files import SCHEMA, write_atomically

app = typer.Typer(help="Write and check configuration files.", no_args_is_help=True)


@app.command("new")
def new(
    file: Annotated[Path, typer.Argument(help="File to write.")],
    mode: Annotated[str, typer.Option(help="Name of a correlation model, or module:Class.")] = "laminar_flow",
) -> None:
    """Write a commented configuration file to start from."""
    from homodyne.config.template import template

    write_atomically(file, template(mode).encode(), None)
    say(f"wrote {file}: fill in experimental_data, then run  homodyne fit {file}")


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="Configuration file.")],
    changes: Annotated[list[str] | None, typer.Argument(help="Changes, key=value.")] = None,
) -> None:
    """Check a configuration file, and whether its data file is there, and show it with every default filled in."""
    from homodyne.config.io import load_config, resolve, to_yaml

    config = load_config(file, changes or (), reading=True)
    say(to_yaml(resolve(config)), end="")
    if config.experimental_data.file_path is None:
        say("note: experimental_data.file_path is not given, which homodyne fit needs", error=True)


@app.command("explain")
def explain(
    key: Annotated[str, typer.Argument(help="Key with its sections, such as optimization.method, or a section.")],
    mode: Annotated[str, typer.Option(help="Name of a correlation model, or module:Class.")] = "laminar_flow",
) -> None:
    """Say what a key of the configuration means, what it may be, and its default; of a section, all its keys."""
    from homodyne.config.explanation import explanation

    say(explanation(key, mode))


@app.command("schema")
def schema(
    file: Annotated[Path, typer.Argument(help="JSON file to write.")] = Path("homodyne.schema.json"),
) -> None:
    """Write the JSON schema of configurations, by which editors complete keys and mark mistakes."""
    from homodyne.config.schema import Config

    content = {"$comment": "homodyne schema 1", **Config.model_json_schema()}
    write_atomically(file, json.dumps(content, indent=2, ensure_ascii=False).encode(), SCHEMA)
    say(f"wrote {file}: put  # yaml-language-server: $schema={file}  into the first line of a configuration")
