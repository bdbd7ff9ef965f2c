"""What a result holds and what it refuses to hold."""

from dataclasses import replace

import numpy as np
import pytest
from kohlrausch import Kohlrausch

from homodyne.errors import InputError
from homodyne.physics.models.laminar_flow import LaminarFlow
from homodyne.physics.models.static import Static


@pytest.mark.slow
def test_attributes_of_the_guide(laminar, consensus):
    result = laminar.result
    draws = np.stack([result.samples[name].ravel() for name in result.parameter_names], axis=1)
    np.testing.assert_array_equal(result.samples_params, draws)
    np.testing.assert_allclose(result.mean["contrast"], result.samples["contrast"].reshape(-1, 3).mean(axis=0))
    np.testing.assert_allclose(result.sd["offset"], result.samples["offset"].reshape(-1, 3).std(axis=0, ddof=1))
    assert result.mean["D0"] == pytest.approx(draws[:, 0].mean())
    assert result.converged
    assert not result.is_cmc_result()
    assert result.cmc_diagnostics is None
    assert consensus.is_cmc_result()
    assert consensus.num_shards == len(consensus.per_shard_diagnostics) == 3
    assert consensus.cmc_diagnostics == {"q_test": 0.3}


def test_fixed_parameters_are_no_draws(static):
    result = static.result
    assert result.free_names == ("D0", "D_offset")
    assert result.samples_params.shape == (60, 2)
    assert result.fixed == {"alpha": static.truth["alpha"]}


def test_refused_is_not_converged(refused):
    assert not refused.result.converged
    assert "REFUSED" in repr(refused.result)


def faults(result):
    samples = result.samples
    broken = samples["D0"].copy()
    broken[0, 3] = np.nan
    yield "not finite", {"samples": {**samples, "D0": broken}}
    yield "has shape", {"samples": {**samples, "D0": samples["D0"][:, :-1]}}
    yield "one per angle|expected", {"samples": {**samples, "contrast": samples["contrast"][..., :2]}}
    yield "one of each for every map", {"q": None}
    yield "one of each for every map", {"q": 0.0054}
    yield "dtype", {"samples": {**samples, "D0": samples["D0"].astype(object)}}
    yield "has shape", {"sample_stats": {"lp": np.zeros(3)}}
    yield "empty", {"samples": {}, "parameter_names": ()}
    yield "neither|either", {"parameter_names": (*result.parameter_names, "viscosity")}
    yield "either", {"fixed": {"D0": 1.0}}
    yield "verdict", {"verdict": "FINE"}
    yield "certificate says", {"verdict": "REFUSED"}
    yield "cannot be stored|holds a", {"config": {"model": object()}}
    yield "seed", {"seed": 1.5}
    yield "num_points", {"num_points": "many"}


def test_contradictions_are_refused(laminar):
    for message, change in faults(laminar.result):
        with pytest.raises(InputError, match=message):
            replace(laminar.result, **change)


def test_models_are_found_by_name(laminar, static, own):
    legacy = {"shear_convention": "legacy"}
    assert replace(laminar.result, model_class=None).model == LaminarFlow()
    assert replace(laminar.result, model_class=None, model_options=legacy).model == LaminarFlow("legacy")
    assert replace(static.result, model_class=None, analysis_mode="static_isotropic").model == Static()
    assert replace(own.result, analysis_mode="no_such_model", model_class=Kohlrausch).model == Kohlrausch(0.004)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"analysis_mode": "turbulent"}, "unknown model 'turbulent'"),
        ({"model_options": {"plates": 2}}, "has no option plates"),
        ({"analysis_mode": "static", "model_options": {}}, "Static has the parameters D0, alpha, D_offset, the result"),
        ({"model_class": Kohlrausch}, "unexpected keyword"),
    ],
)
def test_unknown_models_say_why_and_how_to_name_them(laminar, change, reason):
    result = replace(laminar.result, **{"model_class": None} | change)
    assert result.model is None
    assert reason in result.missing_model
    assert "load_result(path, model=MyModel)" in result.missing_model
    with pytest.raises(InputError, match="no curves of the model"):
        result.require_model()


def test_results_of_other_kinds_have_no_model(generic):
    assert generic.model is None
    assert "does not come from two-time maps" in generic.missing_model


def test_numbers_are_kept_as_given(laminar):
    np.testing.assert_array_equal(laminar.result.t, laminar.data.t)
    assert laminar.result.bad_frames == (3, 4)
    assert replace(laminar.result, config={"n": np.int64(3), "x": (1, np.float32(0.5))}).config == {
        "n": 3,
        "x": [1, 0.5],
    }
