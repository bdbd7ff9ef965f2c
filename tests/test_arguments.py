"""Every argument of a public function, given what it can never be: one sentence that names it, and no work before."""

from decimal import Decimal

import numpy as np
import pytest

import homodyne
from homodyne.arguments import Faults, as_path, shown
from homodyne.certificate.certify import certify
from homodyne.certificate.chains import diagnose
from homodyne.config.io import load_config
from homodyne.data import describe, save_hdf5, save_npz, write_aps_u
from homodyne.errors import InputError
from homodyne.optimization.cmc import (
    LogDensityModel,
    combine_subposteriors,
    pool_samples_from_shards,
    run_svi_initialization,
    shard_data_stratified,
    validate_cmc_results,
    validate_shards,
)
from homodyne.optimization.cmc.backends.base import SequentialBackend
from homodyne.optimization.cmc.types import Initialization
from homodyne.optimization.mcmc import fit_mcmc_jax
from homodyne.registries import BACKENDS, COMBINERS, FORMATS, NOISE, SAMPLERS, STRATEGIES, Registry
from homodyne.result.comparison import compare


class Stubborn:
    """Gives neither its values nor a text."""

    def __array__(self, *given: object) -> None:
        raise RuntimeError

    def __repr__(self) -> str:
        raise RuntimeError


NEVER = [1j, object(), [[1], [2, 3]], np.ma.masked, np.ma.array(1.0, mask=True), Stubborn(), {1: 2}, 10**5000]
T, PHI = 0.1 * np.arange(1, 5), [0.0, 90.0]
CUBE = {"c2": np.full((2, 4, 4), 1.1), "t": T, "phi": PHI, "q": 0.01}
FLAT = {"data": CUBE["c2"], "t1": T, "t2": T, "phi": PHI, "q": 0.01}
STATIC = {"D0": 1e4, "alpha": 0.0, "D_offset": 0.0}
MADE = {"params": STATIC, "q": 0.01, "num_frames": 4, "dt": 0.1, "phi": [0.0], "contrast": 0.3}
MADE |= {"kind": "independent", "sigma": 0.1}
SCALED, WEIGHED = ("gap", "pixels", "mean_counts", "units"), ("weights", "frame_weights")
DOORS = [
    (homodyne.load, {"path": "absent.h5"}, ("path", "format", "units")),
    (describe, {"path": "absent.h5"}, ("path", "format", "units")),
    (homodyne.from_cube, CUBE, (*CUBE, *SCALED, *WEIGHED, "frames")),
    (homodyne.from_arrays, FLAT, (*FLAT, *SCALED, *WEIGHED)),
    (homodyne.simulate, MADE, (*MADE, "gap", "seed", "model", "age_origin", "offset")),
    (homodyne.load_result, {}, ("path",)),
    (compare, {}, ("results",)),
    (load_config, {}, ("overrides",)),
    (homodyne.fit, {}, ("data",)),
    (fit_mcmc_jax, FLAT, (*FLAT, "L", "progress", "seed", "method", "analysis_mode")),
    (shard_data_stratified, {**FLAT, "num_shards": 2}, ("data", "t1", "t2", "phi", "num_shards", "strategy")),
]


@pytest.mark.parametrize(
    ("door", "given", "name"),
    [pytest.param(door, given, name, id=f"{door.__name__}-{name}") for door, given, names in DOORS for name in names],
)
def test_wrong_arguments_are_refused(door, given, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in NEVER:
        if name in ("params", "results", "options") and isinstance(value, dict | list):
            continue
        with pytest.raises(InputError) as caught:
            door(**{**given, name: value})
        assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("frames", [(1.5, 5.5), (1, 2), (2, 1), "14", True, (1, 10**400), ("1", "4"), (0, 3)])
def test_numbers_of_frames_are_those_of_the_maps(frames):
    with pytest.raises(InputError, match="frames = "):
        homodyne.from_cube(**CUBE, frames=frames)


@pytest.mark.parametrize("save", [save_npz, save_hdf5, write_aps_u])
def test_what_is_no_measurement_is_not_written(save, tmp_path):
    with pytest.raises(InputError, match=r"data is None; expected what homodyne\.load"):
        save(tmp_path / "a.h5", None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("registry", [BACKENDS, COMBINERS, STRATEGIES, SAMPLERS, FORMATS, NOISE])
def test_names_are_texts(registry: Registry):
    for value in (None, 3, ["a"], b"a", np.array(["a", "b"])):
        for ask in (registry.find, lambda name: registry.register(name, "a:b")):
            with pytest.raises(InputError, match=f"the {registry.kind} is .* expected a name"):
                ask(value)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(InputError) as caught:
        homodyne.simulate(**{**MADE, "dt": -1.0, "num_frames": 2, "age_origin": "old", "q": [[0.1]]})
    assert [text.split()[0].split("[")[0] for text in caught.value.problems] == ["num_frames", "dt", "age_origin", "q"]


def test_numbers_in_arrays_without_axes_are_numbers():
    with Faults() as faults:
        faults.number("a", np.array(2.0), above=1.0)
        faults.integer("b", np.array(2))
    with pytest.raises(InputError, match="3 problems"), Faults() as faults:
        faults.number("a", np.ma.masked)
        faults.number("b", 10**400)
        faults.number("c", Decimal(1))


def test_values_in_messages_are_short():
    assert shown("a" * 100) == "'" + 56 * "a" + "..."
    assert shown(Stubborn()) == "a Stubborn"
    assert shown(10**5000) == "a int"
    with pytest.raises(InputError, match=r"name is 'a\\x00b'; expected the path"):
        as_path("name", "a\0b")


SHARDS = [{"samples": np.random.default_rng(k).normal(size=(20, 2)), "ess": [20.0, 20.0]} for k in range(2)]


@pytest.mark.parametrize("value", [None, "ab", 3, {"a": 1}, np.zeros(2), Stubborn()])
def test_shards_are_a_list(value):
    for door in (combine_subposteriors, validate_cmc_results, pool_samples_from_shards):
        with pytest.raises(InputError, match="expected a list of"):
            door(value)
    with pytest.raises(InputError, match="expected a list of"):
        validate_shards(value, 2)


@pytest.mark.parametrize(
    ("name", "value"), [("samples", "ab"), ("samples", 1j), ("ess", "x"), ("ess", []), ("ess", {})]
)
def test_draws_are_numbers(name, value):
    with pytest.raises(InputError, match="shard 0"):
        combine_subposteriors([{**SHARDS[0], name: value}, SHARDS[1]])


# What is inside of arguments: every value that can never be, at every place, is one sentence, not an error of Python.

MODEL = LogDensityModel(
    ("a", "b"), lambda z: -0.5 * (z @ z), lambda z, data: -0.5 * ((data["y"] - z[0] - z[1]) ** 2).sum()
)
Y = {"y": np.arange(40.0)}
POINT = {"a": 0.0, "b": 0.0}
DRAWS = np.random.default_rng(0).normal(size=(4, 50, 2))
JUDGED = {"samples": DRAWS[0], "mean": np.zeros(2), "cov": np.eye(2), "method": "weighted"}
WRONG = [*NEVER, "ab", ["a", 1], np.full((3, 1), np.nan)]


def evaluate(points):
    return -0.5 * np.square(points).sum(axis=1)


def certified(**changed):
    return certify(
        **{"evaluate": evaluate, "draws": DRAWS, "names": ("a", "b"), "num_points": 100, "seed": 0} | changed
    )


def shard(**changed):
    return {"samples": DRAWS, **changed}


def sampled(**changed):
    given = {"shards": [Y], "mcmc_config": {}, "init_params": POINT, "inv_mass_matrix": np.eye(2), "model": MODEL}
    return SequentialBackend().run_parallel_mcmc(**given | changed)


def started(**changed):
    given = {"model": MODEL, "pooled_data": Y, "num_steps": 100, "num_shards": 2, "points_per_shard": 20.0}
    return run_svi_initialization(**given | changed)


INSIDE = {
    "groups": lambda value: combine_subposteriors(SHARDS, groups=value),
    "a group": lambda value: combine_subposteriors(SHARDS, groups=[[value]]),
    "cavity": lambda value: combine_subposteriors(SHARDS, cavity=value),
    "mean of the cavity": lambda value: combine_subposteriors(SHARDS, cavity=(value, np.eye(1))),
    "covariance of the cavity": lambda value: combine_subposteriors(SHARDS, cavity=(np.zeros(1), value)),
    "names": lambda value: combine_subposteriors([shard(names=value)]),
    "number": lambda value: combine_subposteriors([shard(shard_id=value)]),
    "reason": lambda value: combine_subposteriors([shard(), shard(reason=1j if isinstance(value, str) else value)]),
    **{
        f"validated {name}": lambda value, name=name: validate_cmc_results([shard(**{name: value})])
        for name in ("samples", "names", "rhat", "ess_bulk", "divergences", "ebfmi", "shard_id", "seconds", "problems")
    },
    **{
        f"validated {name}": lambda value, name=name: validate_cmc_results([shard(stats={name: value})])
        for name in ("lp", "energy", "diverging")
    },
    **{
        f"combined {name}": lambda value, name=name: validate_cmc_results([shard()], {**JUDGED, name: value})
        for name in ("samples", "mean", "cov")
    },
    "strict": lambda value: validate_cmc_results([shard()], strict=value),
    "statistics": lambda value: diagnose(DRAWS, {"lp": value}, ("a", "b")),
    "least": lambda value: diagnose(DRAWS, {}, ("a", "b"), min_ess=value),
    **{
        f"certify {name}": lambda value, name=name: certified(**{name: value})
        for name in ("evaluate", "draws", "num_points", "seed", "modes", "gaussian", "approximate", "fitted")
    },
    "answer": lambda value: certified(evaluate=lambda points: value),
    "mode": lambda value: certified(modes=[(np.zeros(2), value)]),
    **{
        f"sampled {name}": lambda value, name=name: sampled(**{name: value})
        for name in ("shards", "init_params", "inv_mass_matrix", "seed", "progress")
    },
    "array of a shard": lambda value: sampled(shards=[Y, {"y": [value, "x"]}]),
    "point": lambda value: sampled(init_params={**POINT, "b": value}),
    "setting": lambda value: sampled(mcmc_config={"adapt_mass": value}),
    **{
        f"started {name}": lambda value, name=name: started(**{name: value})
        for name in ("init_params", "pooled_data", "init", "num_steps", "rank", "progress")
    },
    "starting point": lambda value: started(init_params={**POINT, "b": value}),
    "center": lambda value: started(init=Initialization(value, np.eye(2), "svi")),
    "covariance": lambda value: started(init=Initialization(np.zeros(2), value, "svi")),
    "pooled": lambda value: pool_samples_from_shards([Y, value]),
}


@pytest.mark.parametrize("place", INSIDE)
def test_what_is_inside_of_arguments_is_checked(place):
    for value in WRONG:
        with pytest.raises(InputError) as caught:
            INSIDE[place](value)
        assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (np.eye(3), r"has shape \(3, 3\); expected \(2, 2\)"),
        ([[1.0, 0.5], [0.0, 1.0]], "is not symmetric"),
        ([[1.0, 2.0], [2.0, 1.0]], "is not positive definite"),
        ([[1.0, np.nan], [np.nan, 1.0]], "has 2 numbers that are not finite"),
    ],
)
def test_a_covariance_is_one(matrix, said):
    for door in (
        lambda: combine_subposteriors(SHARDS, cavity=(np.zeros(2), matrix)),
        lambda: certified(modes=[(np.zeros(2), matrix)]),
        lambda: sampled(inv_mass_matrix=matrix),
        lambda: started(init=Initialization(np.zeros(2), matrix, "svi")),
    ):
        with pytest.raises(InputError, match=said):
            door()


@pytest.mark.parametrize("groups", [[[0, 1]], [[0]], [[-1]], [[1], [1]], [[]], [[2]], [[1.0]]])
def test_groups_are_the_last_coordinates(groups):
    with pytest.raises(InputError, match=r"groups is .* the last of 2, each once"):
        combine_subposteriors(SHARDS, groups=groups)
