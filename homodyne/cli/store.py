"""Where a fit keeps its finished shards, and what is said of them; ``homodyne store``."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homodyne.cli.terminal import say
from homodyne.errors import InputError
from homodyne.files import remove_abandoned, remove_abandoned_temporaries

if TYPE_CHECKING:
    from homodyne.config.schema import Config

_DIR = "optimization.cmc.backend.checkpoint_dir"
_NEW = ".new"  # behind the name of a store that will take the place of another


def choose_place(config: "Config", *, resume: bool) -> Path | None:
    """Where a fit keeps its finished shards now; None where it keeps none.

    This is the folder of the configuration, else OUTPUT.store. A fit that replaces a result with its shards uses
    a folder beside that one until it is finished.
    """
    backend = config.optimization.cmc.backend
    if not may_use_shards(config) or backend.enable_checkpoints is False:
        return None
    directory = Path(config.output.directory)
    if backend.checkpoint_dir is None:
        folder = directory.resolve() if directory.name in ("", "..") else directory
        place = folder.with_name(f"{folder.name}.store")
    else:
        place = Path(backend.checkpoint_dir)
    new = _new(place)
    if config.output.overwrite and (new.exists() or (not resume and _belongs(place, directory))):
        return new
    return place


def at(config: "Config", place: Path | None) -> "Config":
    """The configuration with that folder for the shards."""
    from homodyne.config.io import load_config

    return config if place is None else load_config(config, [(_DIR, str(place))])


def replace_earlier(place: Path | None) -> Path | None:
    """Let the shards of a finished fit take the place of those that they replace; return where they are."""
    if place is None or not place.name.endswith(_NEW) or not place.exists():
        return place
    final = place.with_name(place.name.removesuffix(_NEW))
    shutil.rmtree(final, ignore_errors=True)
    place.rename(final)
    return final


def may_use_shards(config: "Config") -> bool:
    """Whether the method can turn out to be cmc."""
    method, enable = config.optimization.method, config.optimization.cmc.enable
    return method == "cmc" or (method == "auto" and enable is not False)


def require_store(place: Path | None) -> None:
    """Refuse to resume where there is nothing to resume.

    Raises
    ------
    InputError
        The method uses no shards, keeps none, or there is no store.
    """
    if place is None:
        raise InputError(
            "--resume: this fit keeps no shards; use --method cmc without optimization.cmc.backend.enable_checkpoints="
            "false"
        )
    if not (place / "manifest.json").is_file():
        raise InputError(
            f"--resume: there is no store of finished shards at {str(place)!r}; start without --resume, or name the "
            f"store by {_DIR}=FOLDER"
        )


def _new(place: Path) -> Path:
    return place.with_name(place.name + _NEW)


def _belongs(place: Path, directory: Path) -> bool:
    """Whether the result in a folder was made from the shards in a store."""
    from homodyne.cli.output import RESULT
    from homodyne.optimization.cmc.store.shards import ShardStore
    from homodyne.optimization.stored import decisive_changes
    from homodyne.result.record import load_result

    if not (directory / RESULT).is_file() or not (place / "manifest.json").is_file():
        return False
    of_store = ShardStore.open(place).manifest.setup.get("config")
    return of_store is not None and not decisive_changes(of_store, load_result(directory / RESULT).config)


def remains(place: Path | None) -> str:
    """Sentence on what an unfinished fit has left in its store, and how to go on; empty when it is nothing."""
    from homodyne.optimization.cmc.store.shards import kept_shards

    kept = "" if place is None else kept_shards(place)
    return f"{kept}: start the same command again with --resume to go on with them" if kept else ""


def say_where(place: Path | None) -> None:
    """Print where the shards of a fit are, when there are any."""
    from homodyne.optimization.cmc.store.shards import kept_shards

    if place is not None and kept_shards(place):
        here = "" if place.is_absolute() else f", below {Path.cwd()}"
        say(f"kept the shards in {place}{here} (for homodyne combine and certify); it may be removed")


app = typer.Typer(help="Look after folders of shards and results.", no_args_is_help=True)


@app.command("clean")
def clean(
    folder: Annotated[Path, typer.Argument(help="Folder of a store or of results.")] = Path(),
) -> None:
    """Remove what programs that were killed have left half-written, here and among temporary files."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the folder of a store or of results")
    removed = [*remove_abandoned(folder), *remove_abandoned_temporaries()]
    say("\n".join(f"removed {file}" for file in removed) or "there is nothing to remove")
