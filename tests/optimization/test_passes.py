"""Passes over maps: the same numbers wherever they are made; what is kept is used where all that it follows from is."""

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import made_maps
import numpy as np
import pytest

import homodyne
from benchmarks import distributed
from homodyne.config.io import load_config
from homodyne.data import write_aps_u
from homodyne.data.references import content_digest, mapped_reference, open_reference, references_of
from homodyne.errors import DataError, ExecutionError, InputError
from homodyne.likelihood.direct import LIMIT, direct_moments
from homodyne.likelihood.maps import Maps
from homodyne.likelihood.reduction import Accuracy, find_cells, reduce_maps, reduce_pairs, reduce_shards
from homodyne.noise.sampling import sampled
from homodyne.optimization import passes as module
from homodyne.optimization.calibration import noise_report
from homodyne.optimization.cmc.sharding import STRATEGIES, shard_numbers
from homodyne.optimization.model_checks import model_checks
from homodyne.optimization.passes import Passes
from homodyne.optimization.pilot import pilot_fit
from homodyne.optimization.problem import build_problem
from homodyne.physics.model import find_model
from homodyne.physics.models.static import Static

pytestmark = pytest.mark.slow

MODEL = find_model("static")
TRUTH = {"D0": 2e4, "alpha": -0.5, "D_offset": 300.0}
PARAMS = {name: np.array([value, 1.1 * value]) for name, value in TRUTH.items()}
I, J = np.array([0, 3, 5, 20]), np.array([1, 40, 10, 59])  # noqa: E741


def config(backend=None, store=None, **more):
    reduction = {"backend": backend, "store": None if store is None else str(store)}
    workers = {"cmc": {"backend": {"num_workers": 2, "max_attempts": 1}}}
    return load_config({"analysis_mode": "static", "reduction": reduction, "optimization": workers, **more})


def maps_of(values, count=3):
    alive = np.ones((count, 60), bool)
    alive[1, 17] = False
    return Maps(values, alive, made_maps.T, np.full(count, 0.01), 30.0 * np.arange(count), None)


@pytest.fixture
def made(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "made_maps"
    folder.mkdir()
    monkeypatch.setenv("MADE_MAPS", str(folder))
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return folder


@pytest.fixture
def maps(made) -> Maps:
    return maps_of(np.array([made_maps.make(k) for k in range(3)]))


def grid_of(maps):
    return find_cells(MODEL, PARAMS, maps, Accuracy(4, 1e-3))


def everything(passes):
    """What all passes give."""
    grid = grid_of(passes.maps)
    nodes = passes.reduce(grid)
    others = [*passes.reduce_pairs(I, J), *passes.direct(MODEL, PARAMS, nodes), *(one.row() for one in passes.samples)]
    shards = [x for strategy in STRATEGIES for shard in passes.split(grid, 3, strategy, 5) for x in shard]
    return [*passes.pairs(I, J), *nodes, *others, *shards]


def alone(model, params, maps):
    """Direct sums of every map by itself, put together."""
    parts = [direct_moments(model, params, maps.subset([k], maps.values[k : k + 1])) for k in range(maps.num_maps)]
    return [np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True)]


def expected(maps, together=False):
    """The same, by the functions for maps in memory."""
    nodes, pairs = reduce_maps(maps, grid_of(maps)), reduce_pairs(maps, I, J)
    values = np.where(pairs.weight > 0, maps.values[:, I, J], np.nan)
    sums = direct_moments if together else alone
    fewest = int(maps.alive.sum(axis=1).min())
    usable = (one[alive][:, alive] for one, alive in zip(maps.values, maps.alive, strict=True))
    samples = [sampled(one, fewest, maps.weights_among(k)).row() for k, one in enumerate(usable)]
    dealt = [shard_numbers(maps, 3, strategy, seed=5) for strategy in STRATEGIES]
    shards = [x for numbers in dealt for shard in reduce_shards(maps, grid_of(maps), 3, numbers) for x in shard]
    return [values, maps.center, *nodes, *pairs, *sums(MODEL, PARAMS, maps), *samples, *shards]


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def num_made(folder):
    file = folder / "made"
    return len(file.read_text().split()) if file.exists() else 0


def remote(maps, settings):
    """Passes over maps of which this process has no values."""
    nothing = replace(maps, values=())
    return Passes(nothing, settings, [{"arguments": {"k": k}} for k in range(maps.num_maps)], "made_maps:make")


@pytest.mark.parametrize("backend", [None, "sequential", "multiprocessing"])
@pytest.mark.parametrize("kept", [False, True])
def test_every_way_gives_the_same_bits(backend, kept, maps, tmp_path):
    together = backend is None and not kept  # then all is done as it was before there were tasks
    with Passes(maps, config(backend, tmp_path / "store" if kept else None)) as passes:
        same(everything(passes), expected(maps, together))
    for one, other in zip(expected(maps), expected(maps, together=True), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


@pytest.mark.parametrize("backend", [None, "sequential", "multiprocessing"])
def test_weights_go_where_the_maps_are(backend, maps, made, tmp_path):
    """And what was kept without them, or with others, is not taken."""
    weights = np.random.default_rng(0).uniform(0.1, 2.0, (3, 60, 60)).astype(np.float32)
    weights[0, 5, 20:30] = 0.0
    for given in (None, tuple(weights), tuple(weights**2), tuple(weights)):
        weighted, kept = replace(maps, weights=given), num_made(made)
        with remote(weighted, config(backend, tmp_path / "store")) as passes:
            same(everything(passes), expected(weighted))
    assert num_made(made) == kept


@pytest.mark.parametrize("backend", [None, "sequential", "multiprocessing"])
def test_maps_that_workers_make(backend, maps, made, tmp_path):
    with remote(maps, config(backend, tmp_path / "store")) as passes:
        same(everything(passes), expected(maps))
    before = num_made(made)
    for k in range(3):
        (made / f"refuse-{k}").touch()
    with remote(maps, config(backend, tmp_path / "store")) as passes:  # nothing is made a second time
        same(everything(passes), expected(maps))
    assert num_made(made) == before


def test_noise_and_tests_of_the_fit_need_no_maps_here(maps, made):
    """Pilot fit, calibrated noise and tests of the fit in a process that has no values of the maps."""
    settings = config("sequential")
    upper = np.where(np.triu(np.ones((60, 60), bool), 1), maps.values, np.nan)
    data = homodyne.from_cube(upper, t=maps.t, q=maps.q, phi=maps.phi)
    problem = build_problem(data, settings)

    def reported(passes):
        with passes:
            pilot, before = pilot_fit(replace(problem, passes=passes), np.random.default_rng(0)), num_made(made)
            report = noise_report(data, pilot, settings.speckle)
            return replace(report, checks=model_checks(pilot, report.noise)), num_made(made) - before

    there = remote(problem.maps, settings)
    (here, _), (elsewhere, made_for_it) = reported(Passes(problem.maps, settings)), reported(there)
    assert not len(there.maps.values)
    assert here.facts == elsewhere.facts
    assert here.checks == elsewhere.checks
    assert here.checks["misfit"]["p"] > 1e-6
    np.testing.assert_array_equal(here.covariance, elsewhere.covariance)
    assert made_for_it == 3  # once, however often the noise is looked at


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_mapped_file_is_read_where_it_lies(order, maps, tmp_path):
    cube = np.pad(maps.values, ((1, 0), (3, 0), (3, 0)))
    np.save(tmp_path / "cube.npy", np.asarray(cube, order=order))
    inside = np.load(tmp_path / "cube.npy", mmap_mode="r")[1:, 3:, 3:]
    references = [mapped_reference(one) for one in inside]
    for one, reference in zip(maps.values, references, strict=True):
        np.testing.assert_array_equal(open_reference(reference), one)
    with Passes(replace(maps, values=inside), config("sequential"), references) as passes:
        same(everything(passes), expected(maps))
    assert mapped_reference(np.load(tmp_path / "cube.npy", mmap_mode="c")) is None
    with pytest.raises(DataError, match="has .* bytes"):
        open_reference({**references[0], "offset": 10**9})


def test_a_file_that_has_changed_is_refused_and_named(maps, tmp_path):
    file = tmp_path / "cube.npy"
    np.save(file, maps.values)
    inside = np.load(file, mmap_mode="r")
    settings = config("sequential", tmp_path / "store")
    with Passes(replace(maps, values=inside), settings, [mapped_reference(one) for one in inside]) as passes:
        passes.reduce(grid_of(maps))
        changed = np.load(file, mmap_mode="r+")
        changed[2, 4, 30] += 1e-3
        changed.flush()
        with pytest.raises(ExecutionError, match=r"(?s)1 of 3 maps.*phi = 60°.*cube\.npy.*values have changed"):
            passes.pairs(I, J)
    inside = np.load(file, mmap_mode="r")
    with Passes(replace(maps, values=inside), settings, [mapped_reference(one) for one in inside]) as passes:
        again = passes.reduce(grid_of(maps))  # as data of its own
    same(again, reduce_maps(replace(maps, values=inside), grid_of(maps)))


def test_one_map_of_a_file_of_any_format(tmp_path):
    truth = homodyne.simulate(
        TRUTH,
        q=[0.01, 0.02],
        num_frames=30,
        dt=0.1,
        phi=[0.0, 90.0],
        contrast=0.3,
        kind="independent",
        sigma=0.01,
        seed=1,
    )
    write_aps_u(tmp_path / "run.h5", truth)
    data = homodyne.load(tmp_path / "run.h5", q=0.02, frames=(4, 23))
    upper = np.triu_indices(20, 1)
    for one, reference in zip(data.c2, references_of(data), strict=True):
        np.testing.assert_array_equal(open_reference(reference)[upper], one[upper])
    with pytest.raises(DataError, match="expected map 9"):
        open_reference({**references_of(data)[0], "map": 9})
    assert references_of(truth) == [None] * 4


def damage(file, place=200):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", ["bit", "truncated", "another"])
def test_a_damaged_file_is_seen_and_made_again(harm, maps, tmp_path, caplog):
    passes = Passes(maps, config(None, tmp_path))
    first = everything(passes)
    files = sorted((tmp_path / "kept").rglob("*.npz"))
    assert len(files) == 3 * (4 + len(STRATEGIES))  # every pass over three maps
    good = files[4].read_bytes()
    if harm == "bit":
        damage(files[4])
    else:
        files[4].write_bytes(good[:-70] if harm == "truncated" else files[3].read_bytes())
    with caplog.at_level(logging.WARNING, "homodyne"):
        same(everything(Passes(maps, config(None, tmp_path))), first)
    assert [str(files[4]) in text and "made again" in text for text in caplog.messages] == [True]
    assert files[4].read_bytes() == good


def reads(monkeypatch, passes):
    """Number of maps that all passes read."""
    counts = []
    for name, operation in list(module._OPERATIONS.items()):

        def counted(maps, *rest, operation=operation):
            counts.append(maps.num_maps)
            return operation(maps, *rest)

        monkeypatch.setitem(module._OPERATIONS, name, counted)
    everything(passes)
    monkeypatch.undo()
    return sum(counts)


def test_whatever_a_result_follows_from_makes_another_key(maps, tmp_path, monkeypatch):
    settings, each = config(None, tmp_path), 4 + len(STRATEGIES)
    everything(Passes(maps, settings))
    assert reads(monkeypatch, Passes(maps, settings)) == 0
    values, alive, q = maps.values.copy(), maps.alive.copy(), maps.q.copy()
    values[1, 2, 50] += 1e-3
    assert reads(monkeypatch, Passes(replace(maps, values=values), settings)) == each  # one map
    values, below = maps.values.copy(), np.tril_indices(60)
    values[:, below[0], below[1]] = 7.0  # which is no data
    assert reads(monkeypatch, Passes(replace(maps, values=values), settings)) == 0
    alive[0, 3] = False
    assert reads(monkeypatch, Passes(replace(maps, alive=alive), settings)) == each
    q[2] *= 1.001
    assert reads(monkeypatch, Passes(replace(maps, q=q), settings)) == each + 2 * len(STRATEGIES)  # shards know all q
    monkeypatch.setattr(module, "VERSION", 2)
    assert reads(monkeypatch, Passes(maps, settings)) == 3 * each


def test_the_times_are_part_of_the_key(maps, tmp_path, monkeypatch):
    """Other times with the same cells: were they left out of the key, weights of the first would be returned."""
    settings, grid = config(None, tmp_path), grid_of(maps)
    t = maps.t + 0.04 * np.sin(np.arange(60))
    other, moved = replace(maps, t=t), replace(grid, t=t, uniform=False)
    wanted = reduce_maps(other, moved)

    def run(times):
        Passes(replace(maps, t=times), settings).pairs(I, J)
        return Passes(replace(maps, t=times), settings).reduce(replace(grid, t=times, uniform=False))

    run(maps.t)
    same(run(t), wanted)
    true_digest = module.store_files.digest
    bytes_of = {module._bytes(x).tobytes() for x in (maps.t, t)}

    def without_times(*parts):
        return "" if len(parts) == 1 and bytes(parts[0]) in bytes_of else true_digest(*parts)

    monkeypatch.setattr(module.store_files, "digest", without_times)
    run(maps.t)
    with pytest.raises(AssertionError):
        same(run(t), wanted)


@dataclass(frozen=True)
class Slower(Static):
    """The static law with another rate: what a user's change of code amounts to."""

    factor: float = 1.0

    def g(self, params, *arguments):
        return super().g({**params, "D0": self.factor * params["D0"]}, *arguments)


def test_direct_sums_know_the_code_of_the_model(maps, tmp_path):
    passes = Passes(maps, config(None, tmp_path))
    nodes = passes.reduce(grid_of(maps))
    for factor in (1.0, 1.0 + 1e-9, 1.0):
        found = passes.direct(Slower(factor), PARAMS, nodes)
        same(found, alone(Slower(factor), PARAMS, maps))
    assert len(list((tmp_path / "kept").rglob("*.npz"))) == 3 * 3  # of the nodes and of two models


@pytest.mark.parametrize("backend", ["sequential", "multiprocessing"])
def test_a_map_that_fails_is_named_and_the_others_are_kept(backend, maps, made, tmp_path):
    (made / "refuse-1").touch()
    settings = config(backend, tmp_path / "store")
    with (
        remote(maps, settings) as passes,
        pytest.raises(ExecutionError, match="phi = 30°.*ValueError: the detector lost map 1") as caught,
    ):
        passes.reduce(grid_of(maps))
    assert caught.value.__notes__ == [f"what was read from 2 of 3 maps is kept in {tmp_path / 'store'}"]
    (made / "refuse-1").unlink()
    before = num_made(made)
    with remote(maps, settings) as passes:
        same(passes.reduce(grid_of(maps)), reduce_maps(maps, grid_of(maps)))
    assert num_made(made) == before + 1
    assert not list((tmp_path / "store").rglob("*.part"))


def test_an_interrupted_run_goes_on(maps, tmp_path, monkeypatch):
    passes, count = Passes(maps, config("sequential", tmp_path / "store")), []
    keep = passes._keep

    def interrupted(key, row):
        if count:
            raise KeyboardInterrupt
        count.append(keep(key, row))

    monkeypatch.setattr(passes, "_keep", interrupted)
    with passes, pytest.raises(KeyboardInterrupt) as caught:
        passes.reduce(grid_of(maps))
    assert "from 1 of 3 maps is kept" in caught.value.__notes__[0]
    again = []
    with Passes(maps, config("sequential", tmp_path / "store")) as passes:
        nodes = passes.reduce(grid_of(maps), lambda done, total: again.append((done, total)))
    same(nodes, reduce_maps(maps, grid_of(maps)))
    assert again == [(1, 2), (2, 2)]


def test_jobs_need_a_folder(maps):
    with Passes(maps, config("slurm")) as passes, pytest.raises(InputError, match=r"set reduction\.store"):
        passes.pairs(I, J)


def test_a_function_is_named_by_the_caller_only(tmp_path):
    with pytest.raises(DataError, match="of a function"):
        open_reference({"arguments": {"k": 1}, "function": "made_maps:make"})
    with pytest.raises(InputError, match="references for 1 maps"):
        Passes(Maps((), np.ones((1, 60), bool), made_maps.T, np.ones(1), np.ones(1), None))


def test_a_second_fit_reads_no_map_but_for_the_noise(tmp_path, monkeypatch):
    data = homodyne.simulate(
        TRUTH, q=0.01, num_frames=40, dt=0.1, phi=[0.0, 90.0], contrast=0.3, kind="independent", sigma=0.01, seed=1
    )
    search = {"method": "laplace", "nlsq": {"num_candidates": 200, "num_starts": 3}}
    plain, kept = (
        load_config({"analysis_mode": "static", "optimization": search, "reduction": {"store": place}})
        for place in (None, str(tmp_path))
    )
    expected = homodyne.fit(data, config=plain)
    first = homodyne.fit(data, config=kept)
    for name in module._OPERATIONS:
        monkeypatch.setitem(module._OPERATIONS, name, None)
    second = homodyne.fit(data, config=kept)
    for result in (first, second):
        assert result.diagnostics["reduction"] == first.diagnostics["reduction"]
        assert result.diagnostics["reduction"]["error"] == pytest.approx(expected.diagnostics["reduction"]["error"])
        same([result.samples[name] for name in TRUTH], [expected.samples[name] for name in TRUTH])


def test_the_benchmark_of_maps_that_workers_make():
    facts = distributed.apart(2, 60, 2)
    assert facts["pairs"] == 2 * 60 * 59 // 2
    assert len(facts["busy"]) == 2  # workers
    assert 0 < facts["returned"] < facts["sent"] + 1e4
    assert facts["error"] < LIMIT
    assert len(list(distributed.rows_of(facts, 2, 60))) == 7


def test_digests_tell_values_and_types_apart():
    one = np.arange(16.0).reshape(4, 4)
    other = one.copy()
    other[3, 0] = 5.0
    assert content_digest(one) == content_digest(other) != content_digest(one.astype(np.float32))


@pytest.mark.skipif(sys.platform != "linux", reason="memory by file is told by Linux")
def test_what_was_read_of_a_mapped_file_leaves_memory(tmp_path, monkeypatch):
    """40 maps of 1 MB; planted: nothing is released."""
    rng = np.random.default_rng(0)
    file, t = tmp_path / "maps.npy", 0.1 * np.arange(1, 513)
    np.save(file, rng.normal(1.1, 0.1, (40, 512, 512)).astype(np.float32))

    def resident():
        """MB of the file that are counted as memory of this process."""
        lines, size = Path("/proc/self/smaps").read_text().splitlines(), 0
        for number, line in enumerate(lines):
            if line.endswith(file.name):
                size += next(int(one.split()[1]) for one in lines[number:] if one.startswith("Rss:"))
        return size / 1024

    values = np.load(file, mmap_mode="r")
    mapped = Maps(values, np.ones((40, 512), bool), t, np.full(40, 0.01), np.arange(40.0), None)
    mapped.subset(range(40), values).center  # noqa: B018
    assert resident() > 10
    seen = []

    def read():
        seen.clear()
        with Passes(mapped) as passes:
            passes.reduce(find_cells(MODEL, PARAMS, mapped, Accuracy()), lambda done, total: seen.append(resident()))

    read()
    assert resident() < 1
    assert max(seen) < 20
    monkeypatch.setattr(module, "release_pages", lambda one: None)
    read()
    assert resident() > 20
