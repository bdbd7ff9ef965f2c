"""Passes over maps: everything of a fit that reads whole maps, here or where the maps lie, and what was kept of it.

A pass is a function of one map and a few numbers that gives a row of float64: values at pairs of frames, the weights of
nodes, direct sums over all pairs, or what the noise and the tests of a fit need of the data. `Passes` runs it in
threads of this process, or as one task for each map through a backend, where only a reference of the map goes out and
the row comes back. With a folder (``reduction.store``) every row is kept under a digest of all that it follows from,
and another fit reads it instead of the map.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np

from homodyne.arrays import AnyArray
from homodyne.config.io import to_mapping
from homodyne.config.physics import model_of
from homodyne.config.schema import Config
from homodyne.data.references import Reference, content_digest, file_of, identity, open_reference
from homodyne.data.twotime import map_label
from homodyne.device.config import detect_hardware
from homodyne.errors import DataError, ExecutionError, InputError
from homodyne.files import OWN, make_folder, write_atomically
from homodyne.likelihood.direct import direct_sums, moments_of_sums
from homodyne.likelihood.maps import Maps
from homodyne.likelihood.nodes import Moments, Nodes
from homodyne.likelihood.reduction import Cell, Grid, nodes_of_pairs, pair_values, reduce_maps, reduce_shards
from homodyne.mapping import mapping_of, release_pages
from homodyne.noise.sampling import MapSample, sampled
from homodyne.noise.tiles import MIN_FRAMES
from homodyne.optimization.cmc.backends.arrays import ArrayBackend
from homodyne.optimization.cmc.backends.base import BackendOptions, CMCBackend
from homodyne.optimization.cmc.backends.selection import select_backend
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.cmc.sharding import shard_numbers
from homodyne.optimization.cmc.store import files as store_files
from homodyne.optimization.cmc.store.shards import Manifest, ShardStore, opened, read_arrays
from homodyne.optimization.cmc.types import Initialization, ShardTask
from homodyne.optimization.nuts import NutsSettings
from homodyne.physics.compiling import compiled
from homodyne.physics.model import CorrelationModel
from homodyne.registries import STRATEGIES, Strategy
from homodyne.threads import in_threads

Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the operations; part of every key, to be raised when one of them gives other numbers."""

RUN_PASS = "homodyne.optimization.passes:run_pass"
"""The function that does the work of a task."""

_MAPPED_AT_ONCE = 16  # maps of a file that are read together
_UNKNOWN = np.zeros(32, np.uint8)  # in place of a digest that nobody has made yet


@dataclass(frozen=True)
class MapWork:
    """What every task of a pass shares.

    Attributes
    ----------
    model : CorrelationModel or None
        For direct sums.
    function : str or None
        "module:name" of what makes the maps, where they are made by workers.
    strategy : Strategy or None
        How the pairs are dealt out to shards.
    """

    model: CorrelationModel | None = None
    function: str | None = None
    strategy: Strategy | None = None


def _digest(maps: Maps, points: AnyArray, work: MapWork, progress: Progress, workers: int) -> AnyArray:
    """SHA-256 of every map, (n_maps, 32)."""
    return np.array([np.frombuffer(content_digest(one), np.uint8) for one in maps.values], dtype=np.float64)


def _pairs(maps: Maps, points: AnyArray, work: MapWork, progress: Progress, workers: int) -> AnyArray:
    """Centre, then values at pairs of frames, `points` (2, K)."""
    i, j = points.astype(np.int64)
    return np.column_stack([maps.center, pair_values(maps, i, j)])


def _reduce(maps: Maps, points: AnyArray, work: MapWork, progress: Progress, workers: int) -> AnyArray:
    """Centre, sums over the data, weight and weight_y on a grid, `points` as of `_grid_points`."""
    whole = points.astype(np.int64).tolist()
    order, uniform = whole[-1][:2]
    nodes = reduce_maps(
        maps, Grid(maps.t, tuple(Cell(*row) for row in whole[:-1]), order, bool(uniform)), progress, workers
    )
    return np.column_stack([nodes.center, nodes.sums, nodes.weight, nodes.weight_y])


def _split(maps: Maps, points: AnyArray, work: MapWork, progress: Progress, workers: int) -> list[AnyArray]:
    """Centre, then for each shard sums over the data, weight and weight_y on a grid; `points` as of `_split_points`."""
    assert work.strategy is not None
    (cells, frames, _, others), (num_shards, seed, *_) = points[:2].astype(np.int64).tolist()
    own, rest = np.split(points[2:], [cells + 1])
    q, phi = rest[:others, :2].T
    alive = rest[others:].ravel()[:frames][None] > 0
    among = Maps((), np.repeat(alive, others, axis=0), maps.t, q, phi, maps.gap)
    dealt = shard_numbers(maps, num_shards, work.strategy, seed=seed, among=among)
    *sides, (order, uniform, _, _) = own.astype(np.int64).tolist()
    grid = Grid(maps.t, tuple(Cell(*row) for row in sides), order, bool(uniform))
    parts = reduce_shards(maps, grid, num_shards, dealt, progress, workers)
    return [
        np.concatenate([maps.center[[k]], *(x[k] for part in parts for x in (part.sums, part.weight, part.weight_y))])
        for k in range(maps.num_maps)
    ]


def _direct(maps: Maps, points: AnyArray, work: MapWork, progress: Progress, workers: int) -> AnyArray:
    """Centre, sums over the data, and sums with g at parameters `points` (P, parameters of the model)."""
    assert work.model is not None
    params = dict(zip(work.model.parameter_names, points.T, strict=True))
    sums, table = direct_sums(work.model, params, maps, progress, workers)
    return np.column_stack([maps.center, sums, np.swapaxes(table, 0, 1).reshape(maps.num_maps, -1)])


def _sample(maps: Maps, points: AnyArray, work: MapWork, progress: Progress, workers: int) -> list[AnyArray]:
    """`homodyne.noise.sampling.MapSample`; `points` (1, 1) are the frames of the shortest map."""

    def one(k: int) -> AnyArray:
        frames, values = np.flatnonzero(maps.alive[k]), maps.whole(k)
        usable = values if frames.size == maps.num_frames else values[np.ix_(frames, frames)]
        return sampled(usable, int(points[0, 0]), maps.weights_among(k)).row()

    return in_threads(one, range(maps.num_maps), workers)


_OPERATIONS: dict[str, Callable[[Maps, AnyArray, MapWork, Progress, int], AnyArray | list[AnyArray]]] = {
    "digest": _digest,
    "pairs": _pairs,
    "reduce": _reduce,
    "split": _split,
    "direct": _direct,
    "sample": _sample,
}


@dataclass(frozen=True, eq=False)
class _Reading:
    """An operation that is to be done on some maps, and what takes its rows as they come."""

    operation: str
    points: AnyArray
    work: MapWork
    maps: Sequence[int]
    keep: Callable[[int, Any], None]
    progress: Progress


def _grid_points(grid: Grid) -> AnyArray:
    """Cells, then order and whether steps are equal, (cells + 1, 4)."""
    return np.array([*grid.cells, (grid.order, grid.uniform, 0, 0)], dtype=np.float64)


def _split_points(maps: Maps, grid: Grid, num_shards: int, seed: int) -> AnyArray:
    """What tasks need to deal out pairs as all maps together do, (rows, 4).

    Numbers of cells, frames, maps and shards, and the seed; the grid; q and angle of all maps; which frames are good.
    """
    cells = _grid_points(grid)
    alive = maps.alive.any(axis=0)
    numbers = [[len(cells) - 1, alive.size, 0, maps.num_maps], [num_shards, seed, 0, 0]]
    places = np.column_stack([maps.q, maps.phi, np.zeros((maps.num_maps, 2))])
    frames = np.pad(alive, (0, -alive.size % 4)).astype(np.float64).reshape(-1, 4)
    return np.concatenate([np.array(numbers, dtype=np.float64), cells, places, frames])


class Passes:
    """The operations that read whole maps.

    To be used in a ``with`` block when there is a backend: its workers end with it.

    Parameters
    ----------
    maps : Maps
        Their `values` may be empty where `references` tells of every map.
    config : Config, optional
        Its ``reduction.backend``, ``reduction.store``, the model, and limits and jobs of ``optimization.cmc.backend``.
    references : sequence of Reference or None
        Where every map lies; None for one that workers are given as a file of its own.
    function : str, optional
        "module:name" of a function that makes maps from the arguments in `references`. A map is known by these then:
        they have to change with what the function makes.
    run : str
        "module:name" of the function that does the work of a task.
    """

    def __init__(
        self,
        maps: Maps,
        config: Config | None = None,
        references: Sequence[Reference | None] | None = None,
        function: str | None = None,
        run: str = RUN_PASS,
    ) -> None:
        self.run = run
        self.maps, self.config, self.function = maps, config or Config(), function
        self.references = list(references) if references is not None else [None] * maps.num_maps
        absent = [k for k, reference in enumerate(self.references) if reference is None and not len(maps.values)]
        if len(self.references) != maps.num_maps or absent:
            raise InputError(
                f"{len(self.references)} references for {maps.num_maps} maps, none for {absent[:3]}: give one each"
            )
        place = self.config.reduction.store
        self.folder = None if place is None else Path(place)
        self._open = ExitStack()
        self._backend: CMCBackend | None = None
        self._store: ShardStore | None = None
        self._stamped = False  # whether the files of the tasks hold the digests of the maps

    def __enter__(self) -> "Passes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._backend, self._store, self._stamped = None, None, False
        self._open.close()

    def pairs(
        self, i: AnyArray, j: AnyArray, progress: Progress = lambda done, total: None
    ) -> tuple[AnyArray, AnyArray]:
        """Values at pairs (i, j) of frames, i < j, (n_maps, K), NaN where they are not data; centres of the maps."""
        rows = np.array(self._run("pairs", np.array([i, j], dtype=np.float64), progress))
        return rows[:, 1:], rows[:, 0]

    def reduce_pairs(self, i: AnyArray, j: AnyArray) -> Nodes:
        """Nodes that are the pairs (i, j) of frames."""
        return nodes_of_pairs(self.maps, i, j, *self.pairs(i, j))

    def reduce(self, grid: Grid, progress: Progress = lambda done, total: None) -> Nodes:
        """All pairs as nodes of a grid."""
        rows = np.array(self._run("reduce", _grid_points(grid), progress))
        weight, weight_y = np.split(rows[:, 6:], 2, axis=1)
        gap, maps = self.maps.gap_or_nan, self.maps
        return Nodes(*grid.times, weight, weight_y, rows[:, 1:6], rows[:, 0], maps.q, maps.phi, gap)

    def split(
        self,
        grid: Grid,
        num_shards: int,
        strategy: str,
        seed: int,
        progress: Progress = lambda done, total: None,
    ) -> list[Nodes]:
        """Nodes of every shard on a grid, dealt out by one of `homodyne.registries.STRATEGIES`.

        Raises
        ------
        InputError
            The strategy is not known, or there are more shards than pairs of frames or parts of the grid.
        """
        maps, size = self.maps, int(grid.limits[-1])
        work = MapWork(None, self.function, STRATEGIES.find(strategy, importing=False))
        shard_numbers(maps, num_shards, strategy, seed=seed)  # before any map is read
        points = _split_points(maps, grid, num_shards, seed)
        rows = self._run("split", points, progress, [strategy] * maps.num_maps, work)
        center = np.array([row[0] for row in rows])
        tables = [row[1:].reshape(num_shards, 5 + 2 * size) for row in rows]
        gap, (t1, t2) = maps.gap_or_nan, grid.times

        def shard(m: int) -> Nodes:
            sums, weight, weight_y = np.split(np.stack([table[m] for table in tables]), [5, 5 + size], axis=1)
            return Nodes(t1, t2, weight, weight_y, sums, center, maps.q, maps.phi, gap)

        return [shard(m) for m in range(num_shards)]

    def direct(
        self,
        model: CorrelationModel,
        params: Mapping[str, AnyArray],
        nodes: Nodes,
        progress: Progress = lambda done, total: None,
    ) -> Moments:
        """Moments of all pairs at parameters (P,), fields (P, n_maps); `nodes` are those of the present grid.

        What a model makes of these nodes is part of the key, so a model whose code was changed finds nothing.
        """
        names = model.parameter_names
        points = np.stack([np.asarray(params[name], dtype=np.float64) for name in names], axis=1)
        marks = [""] * self.maps.num_maps
        if self.folder is not None:
            at = [np.asarray(_correlation(model, nodes, dict(zip(names, point, strict=True)))) for point in points]
            marks = [store_files.digest(*(_bytes(g[k]) for g in at)) for k in range(self.maps.num_maps)]
        rows = np.array(self._run("direct", points, progress, marks, MapWork(model, self.function)))
        table = np.swapaxes(rows[:, 6:].reshape(self.maps.num_maps, len(points), 3), 0, 1)
        return moments_of_sums(rows[:, 0], rows[:, 1:6], table)

    @cached_property
    def samples(self) -> list[MapSample]:
        """What the noise and the tests of a fit need of the data of every map."""
        frames = self.maps.alive.sum(axis=1)
        shortest = frames[frames >= MIN_FRAMES].min(initial=self.maps.num_frames)
        rows = self._run("sample", np.array([[shortest]], dtype=np.float64), lambda done, total: None)
        return [MapSample.of_row(row) for row in rows]

    @cached_property
    def digests(self) -> list[str]:
        """What every map is: a digest of its values, or of the arguments that it is made from."""
        found, where = [""] * self.maps.num_maps, []
        for k, reference in enumerate(self.references):
            if reference is not None and "arguments" in reference:
                found[k] = store_files.digest(f"{self.function} {json.dumps(dict(reference), sort_keys=True)}".encode())
            elif reference is not None and ("mapped" in reference or not len(self.maps.values)):
                where.append(k)
            else:
                found[k] = content_digest(self.maps.values[k]).hex()
        if where:
            marks = [identity(cast(Reference, self.references[k])) if k in where else "" for k in range(len(found))]
            rows = self._run("digest", np.zeros((1, 1)), lambda done, total: None, marks, which=where)
            for k, row in zip(where, rows, strict=True):
                found[k] = row.astype(np.uint8).tobytes().hex()
        return found

    def _run(
        self,
        operation: str,
        points: AnyArray,
        progress: Progress,
        marks: Sequence[str] | None = None,
        work: MapWork | None = None,
        which: Sequence[int] | None = None,
    ) -> list[AnyArray]:
        """Rows of an operation on all maps or some: those that are kept, and the others made now."""
        chosen = range(self.maps.num_maps) if which is None else which
        work, marks = work or MapWork(None, self.function), marks or [""] * self.maps.num_maps
        rows: dict[int, AnyArray] = {}
        keys = {k: self._key(operation, points, k, marks[k]) for k in chosen} if self.folder is not None else {}
        for k, key in keys.items():
            if (row := self._kept(key)) is not None:
                rows[k] = row
        missing = [k for k in chosen if k not in rows]

        def keep(k: int, row: AnyArray) -> None:
            if keys:
                self._keep(keys[k], row)
            rows[k] = row

        try:
            if missing:
                read = self._here if self.config.reduction.backend is None else self._elsewhere
                read(_Reading(operation, points, work, missing, keep, progress))
        except BaseException as error:
            if keys:
                error.add_note(f"what was read from {len(rows)} of {len(chosen)} maps is kept in {self.folder}")
            raise
        return [rows[k] for k in chosen]

    def _here(self, reading: _Reading) -> None:
        """Read maps in threads of this process: all together, or a few at a time where these are kept or mapped.

        Direct sums that are kept are made map by map, as tasks do: with other maps beside it, compiled code may round
        those of a map otherwise in the last digit.
        """
        values, cores, operate = self.maps.values, detect_hardware().cores, _OPERATIONS[reading.operation]
        size = len(reading.maps)
        if self.folder is not None or not len(values):
            size = 1 if reading.operation == "direct" else cores
        elif reading.operation == "split":  # whose rows are long
            size = cores
        elif mapping_of(values[0]) is not None:
            size = _MAPPED_AT_ONCE
        for first in range(0, len(reading.maps), size):
            part = reading.maps[first : first + size]
            some = [values[k] if len(values) else open_reference(self._reference(k), self.function) for k in part]
            tell = reading.progress if len(part) == len(reading.maps) else (lambda done, total: None)
            for k, row in zip(
                part, operate(self.maps.subset(part, some), reading.points, reading.work, tell, cores), strict=True
            ):
                reading.keep(k, row)
            for one in some:
                release_pages(one)
            if len(part) < len(reading.maps):
                reading.progress(first + len(part), len(reading.maps))

    def _elsewhere(self, reading: _Reading) -> None:
        """Read maps by tasks of the backend."""
        if reading.operation != "digest":
            self.digests  # noqa: B018  may take a pass of its own
        backend, store = self._workers()
        if reading.operation != "digest" and not self._stamped:
            self._stamp(store)
        if isinstance(backend, ArrayBackend) and reading.work.model not in (None, model_of(self.config)):
            raise InputError(
                f"direct sums of {reading.work.model} were asked for; jobs make the model of the configuration only"
            )
        threads = backend.jobs.cpus if isinstance(backend, ArrayBackend) else 1
        nowhere = Initialization(np.empty(0), np.empty((0, 0)), "identity")
        tasks = [
            ShardTask(
                shard_id=k, model=cast(Model, reading.work), data=store.shard_path(k), power=1.0,
                settings=NutsSettings(), init=nowhere, seed=0, points=reading.points, threads=threads,
                operation=reading.operation,
            )
            for k in reading.maps
        ]  # fmt: skip
        failures = backend.run(
            tasks, on_result=reading.keep, progress=lambda stage, done, total: reading.progress(done, total)
        )
        if failures:
            first = failures[0]
            raise ExecutionError(
                f"{len(failures)} of {len(reading.maps)} maps could not be read ({reading.operation}); the map at "
                f"{map_label(self.maps.q[first.shard_id], self.maps.phi[first.shard_id])}: {first.reason}"
            )

    def _workers(self) -> tuple[CMCBackend, ShardStore]:
        """Backend, and the store with a folder for every map: both made when they are first needed."""
        if self._backend is None or self._store is None:
            given, maps = self.config.optimization.cmc.backend, self.maps
            options = BackendOptions(
                num_workers=given.num_workers, timeout=given.timeout, max_attempts=given.max_attempts, run=self.run,
                jobs=given.jobs.model_copy(update={"evaluate_in_jobs": True}),
            )  # fmt: skip
            hardware = detect_hardware()
            name = self.config.reduction.backend
            backend = select_backend(hardware, name, num_shards=maps.num_maps, options=options, importing=False)
            jobs = isinstance(backend, ArrayBackend)
            if jobs and self.folder is None:
                raise InputError(
                    f"reduction.backend is {self.config.reduction.backend!r} and reduction.store is not given: jobs "
                    "need a folder that they see too; set reduction.store"
                )
            whole: dict[str, object] = dict(to_mapping(self.config))
            law = {name: value for name, value in whole.items() if name in ("analysis_mode", "model")}
            states = [self._state(k).encode() for k in range(maps.num_maps)]
            belonging = map(_bytes, (maps.t, maps.alive, maps.q, maps.phi, *(maps.weights or ())))
            manifest = Manifest(
                data=store_files.digest(*states, f"{maps.gap}".encode(), *belonging),
                model="homodyne passes over maps 1",
                configuration=law,
                names=("map",),
                points=(maps.num_frames * (maps.num_frames - 1) // 2,) * maps.num_maps,
                seed=0,
                setup={"passes": True, "maps": self.function, "config": law},
            )  # fmt: skip
            place = self.folder / "runs" / manifest.fingerprint[:32] if jobs and self.folder is not None else None
            if place is not None:
                make_folder(place.parent)
            store = self._open.enter_context(opened(place, manifest))
            if not store.ready:
                for k in range(maps.num_maps):
                    store.write_shard(k, self._files(k))
                store.finish_setup()
            self._backend, self._store = self._open.enter_context(backend), store
        return self._backend, self._store

    def _files(self, k: int) -> dict[str, AnyArray]:
        """Arrays of the folder of a map: where it lies, or its values, and what belongs to it."""
        maps, reference = self.maps, self.references[k]
        gap = maps.gap_or_nan
        files = {
            "t": maps.t,
            "alive": maps.alive[k],
            "place": np.array([maps.q[k], maps.phi[k], gap]),
            "digest": _UNKNOWN,
            **({} if maps.weights is None else {"weights": maps.weights[k]}),
        }
        if reference is None:
            return {**files, "values": np.asarray(maps.values[k])}
        return {**files, "reference": np.frombuffer(json.dumps(dict(reference)).encode(), np.uint8)}

    def _stamp(self, store: ShardStore) -> None:
        """Tell the tasks what a map has to be that they open elsewhere; values in the store are known to it."""
        opened_elsewhere = [k for k, one in enumerate(self.references) if one is not None and "arguments" not in one]
        for k in opened_elsewhere:
            store.write_shard(k, {**self._files(k), "digest": np.frombuffer(bytes.fromhex(self.digests[k]), np.uint8)})
        if opened_elsewhere:
            store.finish_setup()
        self._stamped = True

    def _state(self, k: int) -> str:
        reference = self.references[k]
        return self.digests[k] if reference is None else identity(reference)

    def _reference(self, k: int) -> Reference:
        return cast(Reference, self.references[k])

    def _key(self, operation: str, points: AnyArray, k: int, mark: str) -> str:
        """Digest of everything that a row follows from."""
        maps = self.maps
        parts = {
            "operation": operation, "version": VERSION, "points": store_files.digest(_bytes(points)),
            "shape": points.shape, "mark": mark, "map": "" if operation == "digest" else self.digests[k],
            "t": store_files.digest(_bytes(maps.t)), "alive": store_files.digest(_bytes(maps.alive[k])),
            "q": float(maps.q[k]), "phi": float(maps.phi[k]), "gap": maps.gap,
            **({} if maps.weights is None else {"weights": content_digest(maps.weights[k]).hex()}),
        }  # fmt: skip
        return store_files.digest(json.dumps(parts, sort_keys=True).encode())

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / "kept" / key[:2] / f"{key}.npz"

    def _kept(self, key: str) -> AnyArray | None:
        """Row that is kept under a key; None when there is none that can be used."""
        file = self._file(key)
        try:
            arrays = store_files.unseal(file)
            if arrays is None:
                return None
            if {"row", "key"} - arrays.keys() or arrays["key"].tobytes() != key.encode():
                raise InputError("it belongs to another key")
        except InputError as error:
            logger.warning("%s is not used and made again: %s", file, error)
            return None
        return arrays["row"]

    def _keep(self, key: str, row: AnyArray) -> None:
        file = self._file(key)
        make_folder(file.parent)
        write_atomically(file, store_files.seal({"row": row, "key": np.frombuffer(key.encode(), np.uint8)}), OWN)


def run_pass(task: ShardTask) -> AnyArray:
    """Row of a task: open its map, see that it is the one that is meant, and do the operation.

    Raises
    ------
    DataError
        The map cannot be opened, or has changed.
    """
    work, points = cast(MapWork, task.model), task.points
    assert points is not None
    arrays = read_arrays(task.data)
    (q, phi, gap), reference = arrays["place"].tolist(), {}
    if "values" in arrays:
        values = arrays["values"]
    else:
        reference = json.loads(arrays["reference"].tobytes())
        values = open_reference(reference, work.function)
    n, digest = len(arrays["t"]), arrays["digest"].tobytes()
    where = f"the map at {map_label(q, phi)} in {file_of(reference) or work.function or str(task.data)!r}"
    if values.shape != (n, n):
        raise DataError(f"{where} has shape {values.shape}; expected ({n}, {n})")
    if any(digest) and content_digest(values) != digest:
        raise DataError(
            f"{where} is not what this fit was started with: its values have changed; restore the file, or load the "
            "data again (maps that were changed in memory are made known by homodyne.from_cube)"
        )
    t, alive = np.array(arrays["t"]), np.array(arrays["alive"])[None]
    weights = (np.array(arrays["weights"]),) if "weights" in arrays else None
    maps = Maps((values,), alive, t, np.array([q]), np.array([phi]), None if np.isnan(gap) else gap, weights)
    return np.asarray(_OPERATIONS[task.operation](maps, points, work, lambda done, total: None, task.threads)[0])


def _bytes(values: AnyArray) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


_correlation = compiled(lambda model, nodes, params: nodes.correlation(model, params), static_argnums=(0,))
