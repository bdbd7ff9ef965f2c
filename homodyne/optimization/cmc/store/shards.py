"""A directory that holds a consensus run: data of every shard, one file per finished shard, and what they belong to.

    manifest.json          what the run is: fingerprint, configuration, model; written last when the run is set up
    shards/0007/NAME.npy   arrays of a shard, read by memory map
    shards/0007/arrays.json  type, shape and SHA-256 of each; the manifest holds the SHA-256 of this file
    results/0007.npz       a `ShardResult`, sealed with a SHA-256
    failures/0007.json     why a shard could not be run
    lock                   who coordinates the run now

`ShardStore.create` makes one or resumes one, `ShardStore.open` reads one. Every file is replaced atomically, so a
process may be killed at any moment: what stands there is whole. Whatever is read is compared with what was written.
A result that is damaged, or that belongs to another run, counts as missing and is moved aside; a damaged manifest or
shard is refused. Nothing is pickled.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from homodyne.arguments import Json
from homodyne.arrays import AnyArray
from homodyne.errors import InputError
from homodyne.files import (
    OWN,
    STAGE,
    make_folder,
    remove_abandoned,
    remove_abandoned_temporaries,
    replacing,
    temporary_folder,
    write_atomically,
)
from homodyne.optimization.cmc.store import files as store_files
from homodyne.optimization.cmc.store.lock import exclusive
from homodyne.optimization.cmc.types import ShardFailure, ShardResult

logger = logging.getLogger(__name__)

FORMAT = "homodyne consensus store 2"
"""First entry of a manifest; a program that does not know it must not read the store."""

SAME = 1e-9
"""Difference, relative and absolute, of two log densities that are the same."""

_OURS = re.compile(rf"shards|results|failures|lock|{STAGE.pattern}")
_MAX_MANIFEST = 64 * 2**20  # bytes
_SCALARS = ("num_points", "converged", "problems", "divergences", "num_gradients", "attempts", "seconds")
_ARRAYS_FILE = "arrays.json"
_ARRAYS = ("samples", "rhat", "ess_bulk", "ess_tail", "ebfmi")


@dataclass(frozen=True, eq=False)
class Manifest:
    """What a store belongs to.

    Attributes
    ----------
    data : str
        Digest of the data, as of `digest_arrays`.
    model : str
        What tells this model from others: its name and version, or a digest.
    configuration : mapping
        Resolved configuration, plain values only. Nested mappings are kept flat, as "cmc.sharding.num_shards".
    names : tuple of str
        The D joint coordinates.
    points : tuple of int
        Observations in each shard; as many entries as shards.
    seed : int
        Base seed of the run.
    densities : tuple of float
        Log densities of the model at fixed points, from all data: they tell models of one name apart. Not part of the
        fingerprint, because they agree to rounding only.
    setup : mapping
        Plain values from which the model and the tasks can be built again. Not part of the fingerprint.
    versions : mapping of str
        Versions of the libraries that set the run up. Not part of the fingerprint.
    """

    data: str
    model: str
    configuration: Mapping[str, object]
    names: tuple[str, ...]
    points: tuple[int, ...]
    seed: int
    densities: tuple[float, ...] = ()
    setup: Mapping[str, Json] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "configuration", flatten(self.configuration))
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "points", tuple(int(count) for count in self.points))
        object.__setattr__(self, "densities", tuple(float(value) for value in self.densities))
        if not self.points or not self.names:
            raise InputError(f"a run needs shards and names, got points {self.points} and names {self.names}")

    @property
    def num_shards(self) -> int:
        """Shards of the run."""
        return len(self.points)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides about the draws."""
        parts = {name: getattr(self, name) for name in ("data", "model", "configuration", "names", "points", "seed")}
        return store_files.digest(store_files.to_json(parts, sort_keys=True).encode())

    def same_densities(self, other: "Manifest") -> bool:
        """Whether the log densities of two runs agree to rounding."""
        one, two = np.array(self.densities), np.array(other.densities)
        return one.shape == two.shape and np.allclose(one, two, rtol=SAME, atol=SAME, equal_nan=True)

    def differences(self, other: "Manifest") -> list[str]:
        """Say what is another in `other`, one phrase for each entry, with the configuration key by key."""
        found = [
            f"{name} ({_short(getattr(self, name))} there, {_short(getattr(other, name))} here)"
            for name in ("data", "model", "names", "seed", "points")
            if getattr(self, name) != getattr(other, name)
        ]
        if not self.same_densities(other):
            found.append(f"log densities of the model ({_short(self.densities)} there, {_short(other.densities)} here)")
        mine, theirs = self.configuration, other.configuration
        return found + [
            f"configuration key {key!r} ({_short(mine, key)} there, {_short(theirs, key)} here)"
            for key in sorted(mine.keys() | theirs.keys())
            if store_files.to_json(mine.get(key, _ABSENT)) != store_files.to_json(theirs.get(key, _ABSENT))
        ]


@dataclass(frozen=True)
class ShardStore:
    """The directory of a consensus run.

    Attributes
    ----------
    path : Path
    manifest : Manifest
    kept : bool
        Whether it outlives the run, which one in a temporary folder does not.
    """

    path: Path
    manifest: Manifest
    kept: bool = True

    @classmethod
    def create(cls, path: str | os.PathLike[str], manifest: Manifest, *, kept: bool = True) -> "ShardStore":
        """Make a store, or take up the one that is there when it belongs to the same run.

        When it is not yet `ready`, take the `lock`, `write_shard` every shard, then `finish_setup`.

        Raises
        ------
        InputError
            The directory belongs to another run (the message names what differs), or is no store and not empty.
        """
        place = Path(path)
        if place.is_dir() and not (place / "manifest.json").exists():
            foreign = sorted(entry.name for entry in place.iterdir() if not _OURS.fullmatch(entry.name))
            if foreign:
                raise InputError(
                    f"{os.fspath(path)!r} is not a consensus store and not empty (it holds {foreign[0]!r}); "
                    "choose a new directory"
                )
        store = cls(place, manifest, kept)
        store.ready  # noqa: B018  refuses the manifest of another run
        for name in ("shards", "results", "failures"):
            make_folder(place / name)
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "ShardStore":
        """Read the store at `path`.

        Raises
        ------
        InputError
            There is none, or its manifest cannot be read.
        """
        place = Path(path)
        if not (place / "manifest.json").is_file():
            raise InputError(
                f"{os.fspath(path)!r} is not a consensus store: it has no manifest.json; "
                "give the directory that a run with method 'cmc' has written"
            )
        return cls(place, _read_manifest(place / "manifest.json")[0])

    @property
    def ready(self) -> bool:
        """Whether the set-up is finished; InputError when another run has done it."""
        file = self.path / "manifest.json"
        if not file.exists():
            return False
        there, _ = _read_manifest(file)
        if there.fingerprint != self.manifest.fingerprint or not there.same_densities(self.manifest):
            raise InputError(
                f"the store {os.fspath(self.path)!r} belongs to another run: different "
                f"{'; '.join(there.differences(self.manifest))}. "
                "Restore these to go on with it, or choose a new directory"
            )
        if dict(there.versions) != dict(self.manifest.versions):
            logger.warning(
                "the store %s was set up with %s, this is %s; draws may differ in rounding",
                self.path,
                dict(there.versions),
                dict(self.manifest.versions),
            )
        return True

    def lock(self) -> AbstractContextManager[None]:
        """Keep every other coordinator out while the ``with`` block runs.

        The lock of a process of this machine that is no longer alive is taken over; that of another machine is given
        up by `store_lock.release` (``homodyne unlock``), once it has given no sign of life for some minutes.

        Raises
        ------
        ExecutionError
            Somebody else coordinates this store; the message names process and machine.
        """
        return exclusive(self.path / "lock")

    def shard_path(self, shard_id: int) -> Path:
        """Folder with the arrays of a shard."""
        return self.path / "shards" / self._stem(shard_id)

    def write_shard(self, shard_id: int, arrays: Mapping[str, AnyArray]) -> Path:
        """Write the arrays of a shard and return their folder."""
        return write_arrays(self.shard_path(shard_id), arrays)

    def finish_setup(self) -> None:
        """Write the manifest, once every shard is there.

        Raises
        ------
        InputError
            A shard was not written.
        """
        marks = [_mark(self.shard_path(shard_id)) for shard_id in range(self.manifest.num_shards)]
        missing = [shard_id for shard_id, mark in enumerate(marks) if not mark]
        if missing:
            raise InputError(f"shards {missing[:10]} of {self.path} were not written; write all of them first")
        entries = {"format": FORMAT, "fingerprint": self.manifest.fingerprint, "shards": marks}
        store_files.write_json(self.path / "manifest.json", {**entries, **asdict(self.manifest)}, _MAX_MANIFEST)

    def read_shard(self, shard_id: int) -> dict[str, AnyArray]:
        """Arrays of a shard as memory maps.

        Raises
        ------
        InputError
            They are not as they were written: a file is missing, or its content is another.
        """
        folder = self.shard_path(shard_id)
        _, marks = _read_manifest(self.path / "manifest.json")
        if _mark(folder) != marks[shard_id]:
            raise InputError(
                f"{os.fspath(folder / _ARRAYS_FILE)!r} is missing, damaged or of another run: it is not what the "
                "manifest says; copy the store again"
            )
        return read_arrays(folder)

    def write_result(self, result: ShardResult) -> None:
        """Keep what sampling a shard has given; a failure that was noted before is forgotten."""
        self._check_result(result)
        head = {name: getattr(result, name) for name in _SCALARS}
        head |= {"fingerprint": self.manifest.fingerprint, "shard_id": result.shard_id, "names": result.names}
        arrays = {name: getattr(result, name) for name in _ARRAYS}
        arrays |= {f"stats.{name}": value for name, value in result.stats.items()}
        arrays["head"] = np.frombuffer(store_files.to_json(head).encode(), dtype=np.uint8)
        write_atomically(self._result_path(result.shard_id), store_files.seal(arrays), OWN)
        with suppress(OSError):
            self._failure_path(result.shard_id).unlink()

    def read_result(self, shard_id: int) -> ShardResult | None:
        """Result of a shard; None when there is none that can be used.

        A file that is damaged or belongs to another run is renamed to ``.corrupt``, with a logged warning.
        """
        file = self._result_path(shard_id)
        try:
            arrays = store_files.unseal(file)
            return None if arrays is None else self._result(shard_id, arrays)
        except InputError as error:
            _move_aside(file, str(error))
            return None

    def results(self) -> list[ShardResult]:
        """Every result that can be used, in the order of the shards."""
        found = (self.read_result(shard_id) for shard_id in range(self.manifest.num_shards))
        return [result for result in found if result is not None]

    def pending(self) -> list[int]:
        """Shards without a result that can be used. Reads every result: checksums are verified."""
        return [k for k in range(self.manifest.num_shards) if self.read_result(k) is None]

    def remains(self) -> str:
        """Sentence on the finished shards that are kept."""
        return kept_shards(self.path) if self.kept else "nothing is kept: no folder was given for the shards"

    def write_failure(self, failure: ShardFailure) -> None:
        """Note why a shard could not be run."""
        entries = {"fingerprint": self.manifest.fingerprint, **asdict(failure)}
        store_files.write_json(self._failure_path(failure.shard_id), entries)

    def failures(self) -> list[ShardFailure]:
        """Failures noted so far, of shards that have not succeeded since."""
        found = []
        for shard_id in range(self.manifest.num_shards):
            file = self._failure_path(shard_id)
            if not file.exists():
                continue
            try:
                entry = store_files.read_json(file)
                if entry.get("fingerprint") != self.manifest.fingerprint or entry.get("shard_id") != shard_id:
                    raise InputError("it belongs to another run or shard")
                found.append(ShardFailure(shard_id, str(entry["reason"]), int(entry["attempts"])))
            except (InputError, KeyError, TypeError, ValueError) as error:
                _move_aside(file, str(error))
        return found

    def _stem(self, shard_id: int) -> str:
        if isinstance(shard_id, bool) or not isinstance(shard_id, int | np.integer):
            raise InputError(f"a shard is named by its number, got {shard_id!r}")
        if not 0 <= shard_id < self.manifest.num_shards:
            raise InputError(f"there is no shard {shard_id}: the run has shards 0 to {self.manifest.num_shards - 1}")
        return f"{int(shard_id):04d}"

    def _result_path(self, shard_id: int) -> Path:
        return self.path / "results" / f"{self._stem(shard_id)}.npz"

    def _failure_path(self, shard_id: int) -> Path:
        return self.path / "failures" / f"{self._stem(shard_id)}.json"

    def _check_result(self, result: ShardResult) -> None:
        """Refuse a result that does not fit the run, or itself."""
        self._stem(result.shard_id)
        num_points, size = self.manifest.points[result.shard_id], len(self.manifest.names)
        if result.names != self.manifest.names or result.num_points != num_points:
            raise InputError(
                f"the result of shard {result.shard_id} has {result.num_points} points and names {result.names}; "
                f"the run has {num_points} and {self.manifest.names}"
            )
        if result.samples.ndim != 3 or result.samples.shape[2] != size or result.samples.dtype != np.float64:
            raise InputError(
                f"draws of shard {result.shard_id} are {result.samples.dtype} {result.samples.shape}, "
                f"expected float64 (chain, draw, {size})"
            )
        if bad := int(np.count_nonzero(~np.isfinite(result.samples))):
            raise InputError(f"{bad} draws of shard {result.shard_id} are not finite; a sampler must not return them")
        if result.converged == bool(result.problems):
            raise InputError(
                f"shard {result.shard_id}: converged is {result.converged}, its problems are {result.problems}"
            )
        chains = result.samples.shape[:2]
        energies = chains[:1] if np.size(result.ebfmi) else (0,)  # none of weighted points
        expected = {"rhat": (size,), "ess_bulk": (size,), "ess_tail": (size,), "ebfmi": energies}
        shapes = {name: np.shape(getattr(result, name)) for name in expected}
        shapes |= {f"stats[{name!r}]": np.shape(value) for name, value in result.stats.items()}
        wrong = {name: shape for name, shape in shapes.items() if shape != expected.get(name, chains)}
        if wrong:
            raise InputError(f"shard {result.shard_id}: {wrong} does not fit draws {result.samples.shape}")

    def _result(self, shard_id: int, arrays: dict[str, AnyArray]) -> ShardResult:
        """Build a result from the arrays of its file."""
        try:
            head = json.loads(arrays.pop("head").tobytes())
            if head["fingerprint"] != self.manifest.fingerprint:
                raise InputError("it belongs to another run")
            if head["shard_id"] != shard_id:
                raise InputError(f"it belongs to shard {head['shard_id']}")
            stats = {
                name.removeprefix("stats."): arrays.pop(name) for name in list(arrays) if name.startswith("stats.")
            }
            fields: dict[str, Json] = {name: arrays[name] for name in _ARRAYS}
            fields |= {name: head[name] for name in _SCALARS}
            fields |= {name: tuple(head[name]) for name in ("names", "problems")}
            result = ShardResult(shard_id=shard_id, stats=stats, **fields)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f"it is not the result of a shard ({type(error).__name__}: {error})") from error
        self._check_result(result)
        return result


@contextmanager
def opened(path: str | Path | None, manifest: Manifest) -> Iterator[ShardStore]:
    """Create or resume a store, hold its lock, and remove it afterwards where no path was given."""
    if path is None:
        remove_abandoned_temporaries()
        with temporary_folder() as folder:
            yield ShardStore.create(folder / "store", manifest, kept=False)
        return
    store = ShardStore.create(path, manifest)
    with store.lock():
        remove_abandoned(store.path)
        yield store


def kept_shards(place: Path) -> str:
    """Sentence on the shards that a store holds now; empty when there is none."""
    if not (place / "manifest.json").is_file():
        return ""
    count = len(list((place / "results").glob("[0-9]*.npz")))
    if not count:
        return f"the data of the shards, none of them finished, are kept in {place}"
    return f"{'1 finished shard is' if count == 1 else f'{count} finished shards are'} kept in {place}"


def write_arrays(folder: Path, arrays: Mapping[str, AnyArray]) -> Path:
    """Write arrays to ``folder/NAME.npy``, each atomically, and return the folder.

    Raises
    ------
    InputError
        A name is not an identifier, an array is not of numbers, or the folder cannot be written.
    """
    if not arrays:
        raise InputError(f"there is nothing to write to {os.fspath(folder)!r}: a shard has at least one array")
    for name, value in arrays.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,99}", name):
            raise InputError(f"array name {name!r}: use letters, digits and underscores, a letter first")
        if np.asarray(value).dtype.kind not in store_files.NUMBERS:
            raise InputError(f"array {name!r} has type {np.asarray(value).dtype}; a shard holds numbers only")
    make_folder(folder)
    try:
        for stale in [*folder.glob("*.npy"), folder / _ARRAYS_FILE]:  # of a set-up that was killed
            stale.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {os.fspath(folder)!r}: {error.strerror or error}") from error
    for name, value in arrays.items():
        with replacing(folder / f"{name}.npy", OWN) as sink:
            np.lib.format.write_array(sink, np.asarray(value, order="C"), allow_pickle=False)
    entries = {name: store_files.array_entry(folder / f"{name}.npy") for name in arrays}
    store_files.write_json(folder / _ARRAYS_FILE, {"folder": folder.name, "arrays": entries})
    return folder


def read_arrays(folder: Path) -> dict[str, AnyArray]:
    """Memory maps of the arrays in a folder, by name, once their content is found to be what was written.

    Raises
    ------
    InputError
        There are none, or a file is missing, too many, damaged, or of another folder.
    """
    if not folder.is_dir() or not (folder / _ARRAYS_FILE).exists():
        raise InputError(f"{os.fspath(folder)!r} holds no {_ARRAYS_FILE}: it is not the data of a shard")
    written = store_files.read_json(folder / _ARRAYS_FILE)
    names = sorted(file.stem for file in folder.glob("*.npy"))
    if written["folder"] != folder.name or sorted(written["arrays"]) != names:
        raise InputError(
            f"{os.fspath(folder)!r} is not the folder that was written: it holds {_short(names)}, as "
            f"{written['folder']!r} {_short(sorted(written['arrays']))} was written; copy the store again"
        )
    return {name: store_files.memory_map(folder / f"{name}.npy", written["arrays"][name]) for name in names}


def digest_arrays(arrays: Mapping[str, AnyArray]) -> str:
    """SHA-256 over names, types, shapes and values of arrays: the `data` of a `Manifest`."""
    return store_files.digest(*store_files.pieces(arrays))


def flatten(configuration: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    """Nested mappings as one with keys like "cmc.sharding.num_shards"; everything else stays as it is."""
    flat: dict[str, object] = {}
    for key, value in configuration.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


_ABSENT = {"absent": True}


def _short(value: Json, key: str | None = None) -> str:
    """Value for a message, or the value under a key."""
    if key is not None:
        return _short(value[key]) if key in value else "absent"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"


def _mark(folder: Path) -> str:
    """SHA-256 of the file that says what the arrays of a folder are; empty when there is none."""
    try:
        return store_files.digest((folder / _ARRAYS_FILE).read_bytes())
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"cannot read {os.fspath(folder / _ARRAYS_FILE)!r}: {error.strerror or error}") from error


def _move_aside(file: Path, reason: str) -> None:
    """Rename a file that cannot be used, so that it is in nobody's way but can be looked at."""
    logger.warning("%s counts as missing and is renamed to .corrupt: %s", file, reason)
    with suppress(OSError):
        os.replace(file, file.with_name(f"{file.name}.corrupt"))


def _read_manifest(file: Path) -> tuple[Manifest, list[str]]:
    """Manifest of a store, and the mark of every shard."""
    entries = store_files.read_json(file, _MAX_MANIFEST)
    if entries.get("format") != FORMAT:
        raise InputError(
            f"{os.fspath(file)!r} has format {entries.get('format')!r}, this version reads {FORMAT!r}; "
            "use the version of homodyne that wrote it"
        )
    try:
        fields = {name: entries[name] for name in Manifest.__dataclass_fields__}
        manifest, marks = Manifest(**fields), entries["shards"]
        if manifest.fingerprint != entries["fingerprint"] or len(marks) != manifest.num_shards:
            raise InputError("its fingerprint does not fit its content; it was changed by hand or damaged")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{os.fspath(file)!r} cannot be used as a manifest: {error}") from error
    return manifest, marks
