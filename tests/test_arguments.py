"""Every argument of a public function, given what it can never be: one sentence that names it, and no work before."""

from decimal import Decimal

import numpy as np
import pytest

import homodyne
from homodyne.arguments import Faults, as_path, shown
from homodyne.config.io import load_config
from homodyne.data import describe, save_hdf5, save_npz, write_aps_u
from homodyne.errors import InputError
from homodyne.optimization.cmc import (
    combine_subposteriors,
    pool_samples_from_shards,
    shard_data_stratified,
    validate_cmc_results,
    validate_shards,
)
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
