"""``homodyne config``: write and check configuration files."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Write and check configuration files.", no_args_is_help=True)


@app.command("new")
def new(
    file: Annotated[Path, typer.Argument(help="File to write.")],
    mode: Annotated[str, typer.Option(help="static or laminar_flow.")] = "laminar_flow",
) -> None:
    """Write a commented configuration file to start from."""
    from homodyne.config.io import template
    from homodyne.errors import InputError

    text = template(mode)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise InputError(f"{file} exists; choose another name or remove it") from None
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from None
    print(f"wrote {file}: fill in experimental_data, then run  homodyne fit {file}")


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="Configuration file.")],
    changes: Annotated[list[str] | None, typer.Argument(help="Changes, key=value.")] = None,
) -> None:
    """Check a configuration file and show it with every default filled in."""
    from homodyne.config.io import load_config, resolve, to_yaml

    print(to_yaml(resolve(load_config(file, changes or ()))), end="")
