"""Simulated maps have the mean, the covariance and the contrast that they claim; wrong claims are seen."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import homodyne
from homodyne.errors import DataError, InputError
from homodyne.physics import simulate
from homodyne.physics.model import complete_params, find_model, model_for
from homodyne.physics.simulate import (
    TrueModel,
    covariance_factor,
    independent,
    mode_weights,
    parametric,
    simulate_maps,
    speckle,
)

Q, GAP = 0.0054, 2e6
STATIC = {"D0": 4000.0, "alpha": -0.3, "D_offset": 100.0}
FAST = {"D0": 5e6, "alpha": 0.0, "D_offset": 0.0}
STILL, FLOW, TWO = find_model("static"), find_model("laminar_flow"), find_model("heterodyne")
LAMINAR = {**STATIC, "gamma_dot_0": 2e-4, "beta": -0.2, "gamma_dot_offset": 1e-5, "phi0": 10.0}


MOVING = {
    "D0_ref": 3e3, "alpha_ref": 0.0, "D_offset_ref": 0.0, "D0_sample": 1e3, "alpha_sample": 0.0, "D_offset_sample": 0.0,
    "v0": 150.0, "beta": 0.0, "v_offset": 0.0, "f0": 0.4, "f1": -0.1, "f3": 0.2, "phi0": 0.0,
}  # fmt: skip


def replicates(params, count, num_frames, contrast, **more):
    """A model with the same angle many times: every map is an independent draw of one truth."""
    t = np.arange(1, num_frames + 1, dtype=float)
    return TrueModel(model_for(params), params, t, np.zeros(count), Q, GAP, contrast=contrast, **more)


def truth(model):
    t = model.t
    early, late = np.minimum(t[:, None], t), np.maximum(t[:, None], t)
    return np.asarray(model.model.g(model.params, early, late, Q, model.phi[0], GAP))


def pairs_of(maps):
    """Elements i <= j of every map, (maps, pairs), and the pairs."""
    i, j = np.triu_indices(maps.shape[1])
    return maps[:, i, j].astype(float), i, j


def assert_mean_matches(values, expected, bias=0.0):
    """Within five standard errors of the replicates, and a systematic deviation where one is known."""
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    assert np.all(np.abs(values.mean(axis=0) - expected) < 5 * error + bias)


def assert_covariance_matches(values, expected):
    """Every element within five standard errors of an empirical covariance, and all of them on average."""
    centred = values - values.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(axis=0, ddof=1) / np.sqrt(len(values))
    z = (products.mean(axis=0) - expected) / error
    assert np.abs(z).max() < 5
    assert np.mean(z**2) < 2.5


def noise_covariance(K, i, j, pixels):
    return (K[np.ix_(i, i)] * K[np.ix_(j, j)] + K[np.ix_(i, j)] * K[np.ix_(j, i)]) / pixels


def test_parametric_maps_have_the_exact_mean_and_covariance():
    contrast, offset, pixels, counts = 0.4, 1.1, 60, 2.0
    model = replicates(LAMINAR, 6000, 5, contrast, offset=offset)
    values, i, j = pairs_of(parametric(model, pixels=pixels, mean_counts=counts, seed=1).c2)
    K = contrast * truth(model) + np.eye(5) / counts
    mean = offset + K[i, j]
    covariance = noise_covariance(K, i, j, pixels)
    assert_mean_matches(values, mean)
    assert_covariance_matches(values, covariance)

    for planted in (2 * covariance, covariance / 2, np.diag(np.diag(covariance))):
        with pytest.raises(AssertionError):
            assert_covariance_matches(values, planted)
    for planted in (offset + contrast * truth(model)[i, j] ** 2, offset + contrast * truth(model)[i, j]):
        with pytest.raises(AssertionError):  # factor 2 in the exponent; shot noise missing on the diagonal
            assert_mean_matches(values, planted)


@pytest.mark.parametrize("params", [LAMINAR, MOVING], ids=["real field", "complex field"])
def test_speckle_maps_have_the_mean_of_the_model(params):
    contrast, offset, pixels, counts = 0.4, 1.05, 1000, 1.0
    model = replicates(params, 400, 6, contrast, offset=offset)
    maps = speckle(model, pixels=pixels, mean_counts=counts, seed=2)
    values, i, j = pairs_of(maps.c2)
    K = contrast * truth(model) + np.eye(6) / counts
    bias = 4 * K[i, j] / pixels  # of dividing by the mean of the same pixels
    assert_mean_matches(values, offset + K[i, j], bias)
    with pytest.raises(AssertionError):
        assert_mean_matches(values, offset + contrast * truth(model)[i, j] ** 2, bias)
    np.testing.assert_allclose(maps.mean_counts.mean(), counts, rtol=0.01)
    np.testing.assert_array_equal(maps.pixels, pixels)


@pytest.mark.parametrize("counts", [0.2, 5.0, np.inf])
def test_noise_of_speckle_far_from_the_diagonal(counts):
    contrast, pixels = 0.302, 500
    model = replicates(FAST, 60, 40, contrast)
    maps = speckle(model, pixels=pixels, mean_counts=counts, seed=3).c2
    i, j = np.triu_indices(40, 1)
    spread = maps[:, i, j].std()
    expected = (contrast + 1 / counts) / np.sqrt(pixels)
    assert spread == pytest.approx(expected, rel=0.04)
    if np.isfinite(counts):
        assert spread != pytest.approx((contrast + 2 / counts) / np.sqrt(pixels), rel=0.04)
    assert spread != pytest.approx(expected * np.sqrt(2), rel=0.04)


def test_speckle_and_parametric_noise_have_the_same_covariance_in_rows():
    """c2(1,2) and c2(1,3), 1 far away: correlation contrast*g(2,3)/(contrast + 1/n̄)."""
    contrast, counts, pixels = 0.5, 4.0, 400
    slow_pair = TrueModel(STILL, FAST, np.array([1.0, 2.0, 2.0002]), np.zeros(3000), Q, contrast=contrast)
    near = truth(slow_pair)[1, 2]
    assert 0.9 < near < 0.99
    expected = contrast * near / (contrast + 1 / counts)
    for draw in (speckle, parametric):
        maps = draw(slow_pair, pixels=pixels, mean_counts=counts, seed=4).c2
        found = np.corrcoef(maps[:, 0, 1], maps[:, 0, 2])[0, 1]
        error = (1 - expected**2) / np.sqrt(3000)
        assert abs(found - expected) < 5 * error
        assert abs(found - near) > 5 * error  # what it would be without counting noise


@given(st.floats(0.005, 1.0))
def test_mode_weights_meet_any_contrast(contrast):
    weights = mode_weights(contrast)
    assert np.all(weights >= 0)
    assert weights.sum() == pytest.approx(1.0, rel=1e-12)
    assert np.sum(weights**2) == pytest.approx(contrast, rel=1e-8)
    assert len(weights) <= np.ceil(1 / contrast)


@pytest.mark.parametrize("contrast", [1.0, 0.7, 0.5, 1 / 3, 0.15])
def test_contrast_of_speckle_without_counting_noise(contrast):
    maps = speckle(replicates(FAST, 30, 30, contrast), pixels=1000, mean_counts=np.inf, seed=5)
    found = maps.diagonal - 1.0  # sample variance of the intensity
    error = found.std() / np.sqrt(found.size)
    assert abs(found.mean() - contrast) < 5 * error + 4 * contrast / 1000
    assert abs(found.mean() - contrast * 1.1) > 5 * error


def test_whole_modes_are_equal_and_impossible_contrasts_refused():
    np.testing.assert_allclose(mode_weights(0.25), 0.25)
    np.testing.assert_array_equal(mode_weights(1.0), 1.0)
    for contrast in (0.0, -0.1, 1.2, float("nan")):
        with pytest.raises(InputError, match="contrast"):
            mode_weights(contrast)


@pytest.mark.parametrize(
    ("model", "params"),
    [(FLOW, LAMINAR), (find_model("laminar_flow", {"shear_convention": "legacy"}), LAMINAR), (TWO, MOVING)],
)
def test_matrices_are_those_of_every_map(model, params):
    t, phi, q = np.linspace(0.1, 30, 40), np.array([0.0, 10.0, 95.0]), np.array([0.004, 0.004, 0.006])
    true = TrueModel(model, params, t, phi, q, GAP)
    i, j = np.triu_indices(40)
    for k, (g, field) in enumerate(zip(true.correlations(), true.fields(), strict=True)):
        expected = model.g(true.params, t[i], t[j], q[k], phi[k], GAP)
        np.testing.assert_allclose(g[i, j], expected, rtol=1e-10, atol=1e-14)
        np.testing.assert_array_equal(g, g.T)
        np.testing.assert_allclose(np.abs(field) ** 2, g, rtol=1e-10, atol=1e-13)
        np.testing.assert_array_equal(field, field.conj().T)
        factor = covariance_factor(field)
        np.testing.assert_allclose(factor @ factor.conj().T, field, atol=1e-13)


def test_complex_fields_are_circular():
    """A pseudo-covariance <E1 E2> would add its square to the mean of c2."""
    model = TrueModel(TWO, {**MOVING, "v0": 400.0}, np.array([1.0, 1.9, 2.4]), np.zeros(4000), Q, contrast=1.0)
    field = next(model.fields())
    factor = covariance_factor(field)
    values, i, j = pairs_of(speckle(model, pixels=200, mean_counts=np.inf, seed=11).c2)
    expected = np.abs(field)[i, j] ** 2
    assert_mean_matches(values, 1.0 + expected, 6 * expected / 200)
    with pytest.raises(AssertionError):
        assert_mean_matches(values, 1.0 + expected + np.abs(factor @ factor.T)[i, j] ** 2, 6 * expected / 200)


def test_covariance_factor_of_slow_and_frozen_samples():
    t = np.arange(1.0, 101.0)
    for speed in (1e-6, 1e-9, 1e-12, 1e-15, 0.0):  # q² J per frame
        covariance = np.exp(-speed * np.abs(t[:, None] - t))
        factor = covariance_factor(covariance)
        np.testing.assert_allclose(factor @ factor.T, covariance, atol=1e-12)
    with pytest.raises(InputError, match="not a covariance"):
        covariance_factor(np.array([[1.0, 2.0], [2.0, 1.0]]))


def test_frozen_sample_keeps_its_contrast_at_all_lags():
    maps = speckle(replicates({"D0": 1e-18, "alpha": 0.0, "D_offset": 0.0}, 20, 10, 0.5), pixels=2000, seed=6).c2
    i, j = np.triu_indices(10, 1)
    per_map = maps[:, i, j].mean(axis=1)
    assert abs(per_map.mean() - 1.5) < 5 * per_map.std() / np.sqrt(20) + 4 * 0.5 / 2000


def test_independent_noise_is_white_and_of_the_stated_width():
    model = TrueModel(FLOW, LAMINAR, np.arange(1.0, 201.0), np.array([0.0, 40.0]), Q, GAP, 0.3, 1.02)
    maps = independent(model, sigma=[0.1, 0.02], seed=7)
    i, j = np.triu_indices(200, 1)
    for angle, sigma, one in zip(model.phi, (0.1, 0.02), maps.c2, strict=True):
        expected = 1.02 + 0.3 * np.asarray(FLOW.g(LAMINAR, model.t[i], model.t[j], Q, angle, GAP))
        z = (one[i, j] - expected) / sigma
        assert abs(z.mean()) < 5 / np.sqrt(z.size)
        assert abs(np.mean(z**2) - 1) < 5 * np.sqrt(2 / z.size)
        same_row = i[1:] == i[:-1]
        assert abs(np.mean((z[1:] * z[:-1])[same_row])) < 5 / np.sqrt(z.size)
        planted = (one[i, j] - expected) / (1.1 * sigma)
        assert abs(np.mean(planted**2) - 1) > 5 * np.sqrt(2 / z.size)
    assert maps.diagonal is None
    assert maps.pixels is None


DRAWS = {"speckle": {"pixels": 50}, "parametric": {"pixels": 50}, "independent": {"sigma": 0.1}}


@pytest.mark.parametrize("kind", DRAWS)
def test_seeds_symmetry_and_type(kind):
    model = TrueModel(FLOW, LAMINAR, np.arange(1.0, 13.0), np.array([0.0, 40.0]), Q, GAP)
    first, again, other = (simulate_maps(model, kind, DRAWS[kind], seed=s).c2 for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.any(first[:, 0, 3] == other[:, 0, 3])
    assert not np.array_equal(first[0], first[1])
    np.testing.assert_array_equal(first, first.swapaxes(1, 2))
    assert first.dtype == np.float32
    by_generator = simulate_maps(model, kind, DRAWS[kind], seed=np.random.default_rng(1)).c2
    np.testing.assert_array_equal(first, by_generator)
    fewer = TrueModel(FLOW, LAMINAR, model.t, model.phi[:1], Q, GAP)
    np.testing.assert_array_equal(simulate_maps(fewer, kind, DRAWS[kind], seed=1).c2[0], first[0])


@pytest.mark.parametrize("draw", [speckle, parametric])
def test_batches_of_pixels_add_up(monkeypatch, draw):
    monkeypatch.setattr(simulate, "_BATCH_ELEMENTS", 6 * 7)
    assert list(simulate._batches(1000, 6)) == [7] * 142 + [6]
    model = replicates(FAST, 40, 6, 0.5)
    diagonal = draw(model, pixels=1000, mean_counts=2.0, seed=8).diagonal
    error = diagonal.std() / np.sqrt(diagonal.size)
    assert abs(diagonal.mean() - 2.0) < 5 * error + 4 / 1000


def test_each_angle_has_its_own_settings():
    model = TrueModel(STILL, FAST, np.arange(1.0, 31.0), np.zeros(2), Q, None, [0.2, 0.8], [1.0, 1.2])
    maps = parametric(model, pixels=[5000, 50000], mean_counts=[1.0, 4.0], seed=9)
    np.testing.assert_allclose(maps.diagonal.mean(axis=1), [2.2, 2.25], rtol=0.02)
    i, j = np.triu_indices(30, 1)
    spread = maps.c2[:, i, j].std(axis=1)
    np.testing.assert_allclose(spread, [1.2 / np.sqrt(5000), 1.05 / np.sqrt(50000)], rtol=0.15)


MEASUREMENT = {"q": Q, "gap": GAP, "num_frames": 30, "dt": 0.1, "phi": [0.0, 45.0], "contrast": 0.3}


def test_simulated_measurement_carries_what_a_file_would():
    data = homodyne.simulate(LAMINAR, **MEASUREMENT, pixels=100, mean_counts=2.0, age_origin=3.3, seed=1)
    np.testing.assert_allclose(data.t, 3.3 + 0.1 * np.arange(1, 31), rtol=1e-14)
    np.testing.assert_array_equal(data.q, Q)
    assert (data.gap, data.dt, data.age_origin) == (GAP, 0.1, 3.3)
    assert data.num_pairs == 2 * 30 * 29 // 2
    assert data.diagonal.shape == (2, 30)
    np.testing.assert_array_equal(data.pixels, 100)
    np.testing.assert_allclose(data.mean_counts, 2.0, rtol=4 * np.sqrt(0.3 / 100))  # speckle of 100 pixels
    again = homodyne.simulate(LAMINAR, **MEASUREMENT, pixels=100, mean_counts=2.0, age_origin=3.3, seed=1)
    np.testing.assert_array_equal(data.c2, again.c2)


def test_simulated_white_noise_has_no_raw_diagonal():
    data = homodyne.simulate(LAMINAR, **MEASUREMENT, kind="independent", sigma=0.1)
    assert data.diagonal is None
    assert data.pixels is None
    assert data.mean_counts is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 2}, "num_frames is 2"),
        ({"dt": 0.0}, "dt is 0"),
        ({"dt": float("nan")}, "dt is nan"),
        ({"age_origin": -0.1}, "times > 0"),
        ({"q": -1.0}, "q is .*positive"),
        ({"q": [0.004, float("nan")]}, r"q\[1\] is nan"),
        ({"gap": None}, "gap is missing"),
        ({"gap": 0.0}, "gap is 0"),
        ({"phi": []}, "phi"),
        ({"phi": [0.0, float("nan")]}, "phi"),
        ({"contrast": [0.1, 0.2, 0.3]}, "contrast has shape"),
        ({"contrast": 0.0}, "contrast is .*positive"),
        ({"contrast": 1.5}, "contrast is 1.5"),
        ({"offset": float("inf")}, "offset"),
        ({"pixels": 10.5}, "pixels.*whole"),
        ({"pixels": 0}, "pixels"),
        ({"mean_counts": -1.0}, "mean_counts"),
        ({"mean_counts": 1e-4, "pixels": 10}, "without a single count"),
        ({"sigma": 0.1}, "sigma has no meaning"),
        ({"kind": "independent"}, "sigma is missing"),
        ({"kind": "independent", "sigma": -0.1}, "sigma is -0.1"),
        ({"kind": "independent", "sigma": 0.1, "pixels": 10}, "pixels has no meaning"),
        ({"kind": "poisson"}, "'poisson'.*speckle, parametric, independent"),
        ({"shear_convention": "old"}, "shear_convention.*he2024, legacy"),
        ({"model": "statics"}, "did you mean static"),
        ({"model": "static"}, "unknown parameter gamma_dot_0 of static"),
        ({"model": FLOW, "options": {"shear_convention": "legacy"}}, "has its options already"),
        ({"options": {"convention": "legacy"}}, "did you mean shear_convention"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(InputError, match=message):
        homodyne.simulate(LAMINAR, **{**MEASUREMENT, **change})


def test_negative_transport_is_refused():
    with pytest.raises(InputError, match=r"J\(t\) is not positive"):
        homodyne.simulate({**LAMINAR, "D_offset": -5000.0}, **MEASUREMENT)


def test_parameters_name_the_model():
    assert model_for(STATIC) == STILL
    assert model_for(["D0", "beta"]) == FLOW
    with pytest.raises(InputError, match="no model has the parameters D0, k"):
        model_for(["D0", "k"])
    assert complete_params(TWO, MOVING)["f2"] == 0.0
    for params, message in (
        ({"D0": 1.0}, "missing parameter alpha, D_offset of static"),
        ({**STATIC, "d0": 1.0}, "unknown parameter d0 of static; did you mean D0"),
        ({**STATIC, "alpha": float("nan")}, "alpha is nan"),
        ({**STATIC, "D0": -1.0}, "D0 is -1.0, must be at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            complete_params(STILL, params)


def test_a_law_that_no_field_has_is_refused():
    model = TrueModel(
        find_model("stretched"), {"Gamma_ref": 1.0, "mu": 0.0, "k": 3.0}, np.arange(1.0, 30.0), np.zeros(1), 0.005
    )
    assert independent(model, sigma=0.1).c2.shape == (1, 29, 29)
    with pytest.raises(InputError, match="no field has this correlation"):
        speckle(model, pixels=10)


def test_every_map_has_its_own_wave_vector():
    t, phi = np.arange(1.0, 13.0), np.array([0.0, 40.0])
    one = parametric(TrueModel(STILL, STATIC, t, phi, Q), pixels=100, seed=3)
    two = TrueModel(STILL, STATIC, t, np.tile(phi, 2), np.repeat([Q, 2 * Q], 2))
    several = parametric(two, pixels=100, seed=3)
    np.testing.assert_array_equal(several.q, [Q, Q, 2 * Q, 2 * Q])
    np.testing.assert_array_equal(several.c2[:2], one.c2)
    i, j = np.triu_indices(12, 1)
    assert several.c2[2:, i, j].mean() < one.c2[:, i, j].mean() - 0.01


def test_spoilt_maps_reach_the_record():
    from homodyne.data.simulated import from_maps

    model = TrueModel(STILL, STATIC, np.arange(1.0, 13.0), np.array([0.0, 40.0]), Q)
    maps = speckle(model, pixels=100)
    keywords = {"gap": None, "dt": 1.0, "age_origin": 0.0, "kind": "speckle"}
    maps.c2[:, [3, 7], :] = maps.c2[:, :, [3, 7]] = maps.diagonal[:, [3, 7]] = 0.0
    np.testing.assert_array_equal(from_maps(maps, **keywords).bad_frames, [3, 7])
    maps.c2[:] = np.nan
    with pytest.raises(DataError):
        from_maps(maps, **keywords)
