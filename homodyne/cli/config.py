"""``homodyne config``: write and check configuration files."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from homodyne.cli.terminal import say
from homodyne.errors import InputError
from homodyne.files import SCHEMA, write_atomically

app = typer.Typer(help="Write and check configuration files.", no_args_is_help=True)


@app.command("new")
def new(
    file: Annotated[Path, typer.Argument(help="File to write.")],
    mode: Annotated[str, typer.Option(help="Name of a correlation model, or module:Class.")] = "laminar_flow",
    method: Annotated[str | None, typer.Option(help="auto, laplace, nuts or cmc.")] = None,
    cluster: Annotated[
        Literal["slurm", "pbs", "torque"] | None, typer.Option(help="Scheduler whose jobs sample the shards of cmc.")
    ] = None,
) -> None:
    """Write a commented configuration file to start from: every key with its default and what it means.

    Example: homodyne config new run42.yaml --mode static --cluster slurm
    """
    from homodyne.config.template import template

    fill = "experimental_data"
    if cluster is not None:
        if method not in (None, "cmc"):
            raise InputError(f"--cluster {cluster}: jobs sample shards of cmc, not {method}; leave out one of the two")
        method, fill = "cmc", f"{fill} and optimization.cmc.backend.jobs"
    chosen = {"optimization.method": method, "optimization.cmc.backend.name": cluster}
    changes = {key: value for key, value in chosen.items() if value is not None}
    write_atomically(file, template(mode, changes).encode(), None)
    say(f"wrote {file}: fill in {fill}, then run  homodyne fit {file}")


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="Configuration file.")],
    changes: Annotated[list[str] | None, typer.Argument(help="Changes, key=value.")] = None,
) -> None:
    """Check a configuration file, and whether its data file is there, and show it with every default filled in."""
    from homodyne.config.io import load_config, resolve, to_yaml

    config = load_config(file, changes or (), reading=True)
    say(to_yaml(resolve(config)), end="", wrap=False)
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
