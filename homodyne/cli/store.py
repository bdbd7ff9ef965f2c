"""Where a fit keeps its finished shards, and what is said of them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from homodyne.errors import InputError

if TYPE_CHECKING:
    from homodyne.config.schema import Config
    from homodyne.optimization.cmc.result import MCMCResult

_DIR = "optimization.cmc.backend.checkpoint_dir"


def place_store(config: "Config") -> "Config":
    """Keep the shards beside the result folder, as OUTPUT.store, unless the configuration says where, or not at all."""
    from homodyne.config.io import load_config

    backend = config.optimization.cmc.backend
    if not may_use_shards(config) or not backend.enable_checkpoints or backend.checkpoint_dir is not None:
        return config
    folder = Path(config.output.directory)
    if folder.name in ("", ".."):
        folder = folder.resolve()
    return load_config(config, [(_DIR, f"{folder}.store")])


def may_use_shards(config: "Config") -> bool:
    """Whether the method can turn out to be cmc."""
    method, enable = config.optimization.method, config.optimization.cmc.enable
    return method == "cmc" or (method == "auto" and enable is not False)


def require_store(config: "Config") -> None:
    """Refuse to resume where there is nothing to resume.

    Raises
    ------
    InputError
        The method uses no shards, keeps none, or there is no store.
    """
    place = store_of(config)
    if place is None:
        raise InputError(
            "--resume: this fit keeps no shards; use --method cmc with optimization.cmc.backend.enable_checkpoints=true"
        )
    if not (place / "manifest.json").is_file():
        raise InputError(
            f"--resume: there is no store of finished shards at {str(place)!r}; start without --resume, or name the "
            f"store by {_DIR}=FOLDER"
        )


def store_of(config: "Config") -> Path | None:
    """Where finished shards are kept; None where they are not."""
    backend = config.optimization.cmc.backend
    kept = backend.checkpoint_dir if may_use_shards(config) and backend.enable_checkpoints else None
    return None if kept is None else Path(kept)


@contextmanager
def replaced(config: "Config") -> Iterator[None]:
    """Let a fit that replaces a result start without the store which that result was made from.

    The old store comes back when the block fails before it has finished a shard. A store of anything else, and any
    store of a fit that is resumed, stays where it is.
    """
    place = store_of(config)
    if place is None or not config.output.overwrite or not _belongs(place, Path(config.output.directory)):
        yield
        return
    aside = place.with_name(f"{place.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    place.rename(aside)
    try:
        yield
    except BaseException:
        if not finished_shards(place):
            shutil.rmtree(place, ignore_errors=True)
            aside.rename(place)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _belongs(place: Path, directory: Path) -> bool:
    """Whether the result in a folder was made from the shards in a store."""
    from homodyne.cli.output import RESULT
    from homodyne.optimization.cmc.result import load_result
    from homodyne.optimization.cmc.store import ShardStore
    from homodyne.optimization.stored import decisive_changes

    if not (directory / RESULT).is_file() or not (place / "manifest.json").is_file():
        return False
    of_store = ShardStore.open(place).manifest.setup.get("config")
    return of_store is not None and not decisive_changes(of_store, load_result(directory / RESULT).config)


def finished_shards(place: Path | None) -> int:
    """Count the files of finished shards in a store."""
    return 0 if place is None else len(list((place / "results").glob("*.npz")))


def remains(config: "Config") -> str:
    """Sentence on the shards that an interrupted fit has finished; empty when there are none."""
    place = store_of(config)
    count = finished_shards(place)
    if not count:
        return ""
    shards = "1 finished shard is" if count == 1 else f"{count} finished shards are"
    return f"{shards} kept in {place}: start the same command again with --resume to go on with them"


def say_where(config: "Config", result: "MCMCResult") -> None:
    """Print where the shards of a fit are, when it has sampled any."""
    from homodyne.optimization.cmc.result import VERDICTS

    tried = {"cmc: failed", *(f"cmc: {verdict}" for verdict in VERDICTS)} & set(result.diagnostics["methods"])
    place = store_of(config)
    if place is not None and tried and finished_shards(place):
        here = "" if place.is_absolute() else f", below {Path.cwd()}"
        print(f"kept the shards in {place}{here} (for homodyne combine and certify); it may be removed")
