"""Fits from end to end on small simulated measurements, against a posterior integrated on a grid."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from samples import MIRROR, STATIC
from scipy import stats

import homodyne
from homodyne.certificate import certify as certificate
from homodyne.config.io import load_config
from homodyne.errors import ConfigError, ConvergenceError, DataError, InputError
from homodyne.likelihood.posterior import Posterior, evaluate_many, log_densities
from homodyne.likelihood.reduction import reduce_pairs
from homodyne.optimization import mcmc
from homodyne.optimization.mcmc import fit_mcmc_jax
from homodyne.optimization.problem import build_problem
from homodyne.registries import SAMPLERS
from homodyne.testing.statistics import assert_covariance, assert_mean, assert_quantiles

pytestmark = pytest.mark.slow

LAMINAR = STATIC | {"gamma_dot_0": 3e-4, "beta": -0.5, "gamma_dot_offset": 1e-4, "phi0": 5.0}
QUICK = {"nlsq": {"num_candidates": 200, "num_starts": 4}}


def measured(params, phi, sigma=0.03, num_frames=60, gap=2e6):
    settings = {"q": 0.0054, "num_frames": num_frames, "dt": 0.1, "contrast": 0.3, "seed": 1}
    return homodyne.simulate(params, gap=gap, phi=phi, kind="independent", sigma=sigma, **settings)


def fitted(data, mode="static", seed=1, **config):
    method = config.pop("method", "laplace")
    config = {"optimization": QUICK, "uncertainty": "independent"} | config
    return homodyne.fit(data, mode=mode, method=method, seed=seed, config=config)


@pytest.fixture(scope="module")
def data():
    return measured(STATIC, (0.0, 90.0), sigma=0.01)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gap": 1e6}, "gap = 1e.06 Å, but that of the data is 2e.06 Å"),
        ({"phi": [0.0]}, "select a part of the 2 maps"),
        ({"phi": "10:20"}, "No angle in the range"),
        ({"q": 0.02}, "is not in the data"),
        ({"frames": [1, 30]}, "the data have 1 to 60"),
        ({"dt": 0.2}, "contradicts dt"),
        ({"age_origin": 5.0}, "age_origin = 5 s, but the ages of the data count from 0 s"),
    ],
)
def test_data_that_the_configuration_does_not_describe_are_refused(data, given, message):
    with pytest.raises(DataError, match=message):
        fitted(data, experimental_data=given)
    same = {"gap": 2e6, "phi": [0, 90], "q": "all", "frames": [1, 60], "dt": 0.1}
    build_problem(data, load_config({"analysis_mode": "static", "experimental_data": same}))


def test_shards_that_cannot_be_kept_are_refused_before_the_pilot_fit(data, tmp_path, monkeypatch):
    monkeypatch.setattr(mcmc, "pilot_fit", None)
    (tmp_path / "manifest.json").touch()
    kept = {"checkpoint_dir": str(tmp_path), "resume_from_checkpoint": False}
    with pytest.raises(InputError, match="holds an earlier run"):
        fitted(data, method="auto", optimization={"cmc": {"enable": True, "backend": kept}})


@dataclass(frozen=True)
class Exact:
    """A posterior of three coordinates, integrated on a grid: every marginal quantile and moment."""

    posterior: Posterior
    points: np.ndarray
    weights: np.ndarray

    @property
    def mean(self):
        return self.weights @ self.points

    @property
    def covariance(self):
        off = self.points - self.mean
        return (off * self.weights[:, None]).T @ off

    def quantile(self, p):
        """Of every coordinate, by sorting the points of the grid."""
        found = []
        for column in self.points.T:
            order = np.argsort(column)
            found.append(np.interp(p, np.cumsum(self.weights[order]) - 0.5 * self.weights[order], column[order]))
        return np.array(found)

    def coordinates(self, result):
        """Draws of a result, (chain, draw, 3)."""
        space = self.posterior.space
        return space.coordinates({**result.fixed, **{n: result.samples[n] for n in space.free_names}})


@pytest.fixture(scope="module")
def laplace(data):
    return fitted(data)


def problem_of(data, mode, **config):
    return build_problem(data, load_config(config, [("analysis_mode", mode)]))


@pytest.fixture(scope="module")
def exact(data, laplace):
    """The posterior of all pairs of frames with the noise of the fit, at every point of a slanted grid."""
    problem = problem_of(data, "static")
    posterior = problem.posterior(reduce_pairs(problem.maps, *np.triu_indices(60, 1)), laplace.sigma)
    draws = problem.space.coordinates(laplace.samples).reshape(-1, 3)
    root = np.linalg.cholesky(np.cov(draws.T))
    root = root @ np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]  # no two points share a coordinate
    axis = np.linspace(-5.5, 5.5, 21)
    points = draws.mean(axis=0) + np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3) @ root.T
    ball = np.sum(np.linalg.solve(root, (points - draws.mean(axis=0)).T) ** 2, axis=0) < 31.0
    log_density = log_densities(points[ball], posterior)
    weights = np.exp(log_density - log_density.max())
    return Exact(posterior, points[ball], weights / weights.sum())


@pytest.fixture(scope="module")
def nuts(data):
    """From flat arrays in any order, both triangles given: method auto samples there."""
    angle, i, j = np.nonzero(np.isfinite(data.c2) & (np.arange(60)[:, None] < np.arange(60)))
    both = np.random.default_rng(0).permutation(2 * angle.size) % angle.size
    angle, i, j = angle[both], i[both], j[both]
    swap = np.random.default_rng(1).random(angle.size) < 0.5
    t1, t2 = np.where(swap, data.t[j], data.t[i]), np.where(swap, data.t[i], data.t[j])
    settings = {"uncertainty": "independent", "optimization": {"nlsq": QUICK["nlsq"]}, "mcmc": {"num_warmup": 70}}
    return fit_mcmc_jax(
        data.c2[angle, i, j],
        t1,
        t2,
        data.phi[angle],
        data.q[angle],
        None,
        "static",
        "auto",
        cmc_config=settings,
        seed=1,
    )


@pytest.mark.parametrize("name", ["laplace", "nuts"])
def test_draws_have_the_exact_distribution(name, exact, request):
    result = request.getfixturevalue(name)
    assert (result.verdict, result.method) == ("CERTIFIED", name)
    z = exact.coordinates(result)
    z = z.reshape(-1, 3) if name == "laplace" else z
    assert_mean(z, exact.mean)
    assert_covariance(z, exact.mean, exact.covariance)
    assert_quantiles(z, exact.quantile)
    with pytest.raises(AssertionError):  # half a standard deviation, or a fifth of the width, are seen
        assert_mean(z + 0.5 * np.sqrt(np.diag(exact.covariance)), exact.mean)
    with pytest.raises(AssertionError):
        assert_covariance(z, exact.mean, 1.44 * exact.covariance)


def test_every_fit_is_tested_against_its_data(laplace):
    """Whatever the kind of uncertainty."""
    checks = laplace.diagnostics["checks"]
    assert checks["alarms"] == []
    assert [one["phi"] for one in checks["angles"]] == [0.0, 90.0]
    assert f"the model fits the data (p = {checks['misfit']['p']:.2g})" in str(laplace.summary())


def test_flat_arrays_are_the_same_data(nuts, laplace, data):
    assert nuts.num_points == laplace.num_points == data.num_pairs == 2 * 60 * 59 // 2
    np.testing.assert_array_equal(nuts.sigma, laplace.sigma)  # the pilot fits are equal bit for bit
    np.testing.assert_array_equal(nuts.t, data.t)
    assert nuts.config["optimization"]["mcmc"]["num_warmup"] == 70
    assert nuts.diagnostics["divergences"] == 0
    assert set(nuts.diagnostics["rhat"]) == {*STATIC, "contrast", "offset"}


def test_the_stored_configuration_gives_the_same_draws_bit_for_bit(laplace, data):
    """With method auto, which is content with a certified normal approximation."""
    config = {**laplace.config, "optimization": {**laplace.config["optimization"], "method": "auto"}}
    again = homodyne.fit(data, config=config)
    assert again.method == "laplace"
    assert again.diagnostics["methods"] == ["laplace: CERTIFIED"]
    assert again.samples.keys() == laplace.samples.keys()
    for name, values in again.samples.items():
        np.testing.assert_array_equal(values, laplace.samples[name])
    assert again.certificate == laplace.certificate


def conditional_scores(posterior, z, result):
    """Offset and contrast minus their conditional means, whitened: standard normal when drawn exactly, (n, 2)."""
    pairs = np.stack([result.samples["offset"], result.samples["contrast"]], axis=-1).reshape(len(z), -1, 2)
    at = evaluate_many(z, posterior)
    root = np.linalg.cholesky(at.scaling_covariance)
    return np.linalg.solve(root, (pairs - at.scaling_mean)[..., None])[..., 0].reshape(-1, 2)


def test_offset_and_contrast_have_their_exact_conditional_distribution(exact, laplace):
    z = exact.coordinates(laplace).reshape(-1, 3)
    scores = conditional_scores(exact.posterior, z, laplace)
    assert_mean(scores, np.zeros(2))
    assert_covariance(scores, np.zeros(2), np.eye(2))
    with pytest.raises(AssertionError):  # draws that belong to another row
        assert_covariance(conditional_scores(exact.posterior, np.roll(z, 1, axis=0), laplace), np.zeros(2), np.eye(2))


def test_sampled_noise(exact, data, laplace):
    result = fitted(data, noise="sampled")
    assert result.verdict == "CERTIFIED"
    sigma = result.samples["sigma"].reshape(-1, 2)
    error = laplace.sigma / np.sqrt(60 * 59)  # of the noise from that many residuals
    np.testing.assert_allclose(sigma.std(axis=0), error, rtol=0.1)
    assert np.all(np.abs(sigma.mean(axis=0) - 0.01) < 4 * error)
    assert_mean(exact.coordinates(result).reshape(-1, 3), exact.mean)


@pytest.fixture(scope="module")
def laminar():
    """With a bad frame and missing pixels."""
    clean = measured(LAMINAR, (0.0, 30.0, 60.0, 90.0), sigma=0.006)
    c2 = clean.c2.copy()
    c2[:, 7, :] = c2[:, :, 7] = np.nan
    c2[2, 20, 40:44] = np.nan
    data = homodyne.from_cube(c2, clean.t, clean.phi, clean.q, clean.gap)
    news = []
    result = homodyne.fit(
        data, seed=2, config={"optimization": QUICK}, progress=lambda stage, done, total: news.append(stage)
    )
    return data, result, dict.fromkeys(news)


def test_laminar_flow_from_end_to_end(laminar):
    data, result, stages = laminar
    assert result.verdict == "CERTIFIED"
    assert result.diagnostics["methods"] == ["laplace: CERTIFIED"]
    assert result.num_points == data.num_pairs == 4 * 59 * 58 // 2 - 4
    assert result.bad_frames == (7,)
    assert (result.analysis_mode, result.gap) == ("laminar_flow", 2e6)
    stages = {stage.split(":")[0] for stage in stages}
    assert stages == {"pilot fit", "reduction", "certificate", "direct sums", "contrast and offset"}
    space = problem_of(data, "laminar_flow").space
    z = space.coordinates(result.samples).reshape(-1, 7)
    off = space.coordinates(LAMINAR) - z.mean(axis=0)
    assert off @ np.linalg.solve(np.cov(z.T), off) < stats.chi2(7).ppf(1 - 1e-4)
    for name, truth in (("contrast", 0.3), ("offset", 1.0)):
        draws = result.samples[name].reshape(-1, 4)
        assert np.all(np.abs(draws.mean(axis=0) - truth) < 4 * draws.std(axis=0))
        assert draws.std(axis=0).max() < 0.006


def mirror_fit(method):
    """One angle and a known shear rate: phi0 = 80 and 160 degrees do the same to the scattering vector at 30."""
    known = {n: {"fixed": MIRROR[n]} for n in MIRROR if n not in ("D0", "phi0")}
    config = {"optimization": {"nlsq": {"num_candidates": 400, "num_starts": 12}}}
    return fitted(measured(MIRROR, (30.0,)), "laminar_flow", parameters=known, method=method, **config)


@pytest.fixture(scope="module")
def mirror():
    return mirror_fit("auto")


def test_corrected_draws_are_the_weighted_points(mirror):
    """A normal distribution at one of two equal modes is corrected: half of the draws lie at either."""
    assert (mirror.verdict, mirror.method) == ("CORRECTED", "laplace")
    assert "2 modes" in mirror.diagnostics["warnings"][0]
    phi0 = mirror.samples["phi0"].ravel()
    turned = np.abs((phi0 - 30.0 + 90.0) % 180.0 - 90.0)  # angle between flow and scattering vector
    assert abs(turned.mean() - 50.0) < 4 * turned.std()
    assert turned.std() < 5.0
    share = np.mean(np.cos(np.deg2rad(2 * (phi0 - 80.0))) > 0)
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(mirror.certificate.ess)
    assert np.unique(phi0).size <= mirror.certificate.num_points
    assert mirror.diagnostics["ess_bulk"]["phi0"] == mirror.certificate.worth(phi0.size)
    assert np.isfinite(mirror.sample_stats["lp"]).all()


def test_fixed_parameters_are_kept_and_not_sampled(mirror):
    assert mirror.fixed == {n: MIRROR[n] for n in MIRROR if n not in ("D0", "phi0")}
    assert set(mirror.samples) == {"D0", "phi0", "contrast", "offset"}
    assert mirror.samples["contrast"].shape == (4, 250, 1)
    assert abs(mirror.mean["D0"] - MIRROR["D0"]) < 4 * mirror.sd["D0"]


def test_few_noisy_frames_are_answered_and_what_is_refused_stays_refused(monkeypatch):
    """Their posterior is no normal distribution: weighted points are the answer, unless nothing were good enough."""
    noisy = measured(STATIC, (0.0,), sigma=0.1, num_frames=25)
    result = fitted(noisy)
    assert (result.verdict, result.method) == ("CORRECTED", "laplace")
    monkeypatch.setattr(certificate, "MIN_ESS", 1e9)
    result = fitted(noisy)
    assert (result.verdict, result.method) == ("REFUSED", "laplace")
    assert result.diagnostics["methods"] == ["laplace: REFUSED"]
    assert np.unique(result.samples["D0"]).size == 1000  # its own draws, not resampled ones
    assert np.isfinite(result.sample_stats["lp"]).all()  # all of them possible


def failing(pilot, course, settings, tell):
    raise ConvergenceError("no draw at all")


def test_a_later_failure_does_not_take_away_what_can_be_used(monkeypatch):
    """Weighted points of a normal approximation that "auto" is not content with are the best there is."""
    monkeypatch.setattr(mcmc, "ENOUGH", np.inf)
    monkeypatch.setitem(SAMPLERS, "nuts", failing)
    result = mirror_fit("auto")
    assert (result.verdict, result.method) == ("CORRECTED", "laplace")
    first, _, last = result.diagnostics["methods"]
    assert (first, last) == ("laplace: CORRECTED", "nuts: failed (no draw at all)")


def test_the_best_attempt_is_returned_not_the_last(monkeypatch):
    """Chains that never move are refused, and what came before them is not."""

    def stuck(pilot, course, settings, tell):
        return mcmc.Draws(np.tile(pilot.mode.z, (4, 250, 1)), {}, ("never moved",))

    monkeypatch.setattr(mcmc, "ENOUGH", np.inf)
    monkeypatch.setitem(SAMPLERS, "nuts", stuck)
    result = mirror_fit("auto")
    assert (result.verdict, result.method) == ("CORRECTED", "laplace")
    assert result.diagnostics["methods"][-1] == "nuts: REFUSED"


@pytest.mark.parametrize("method", ["laplace", "auto"])
def test_failures_without_any_result_are_told(method, data, monkeypatch):
    for name in ("laplace", "nuts"):
        monkeypatch.setitem(SAMPLERS, name, failing)
    with pytest.raises(ConvergenceError, match="no draw at all"):
        fitted(data, method=method)


def test_too_coarse_cells_are_made_finer(data, laplace):
    """Until the direct sums over all pairs agree, with new draws of the same posterior."""
    coarse = laplace.diagnostics["reduction"]
    finer = fitted(data, reduction={"max_error": 0.3 * coarse["error"]})
    facts = finer.diagnostics["reduction"]
    assert finer.verdict == "CERTIFIED"
    assert facts["error"] < facts["limit"] == 0.3 * coarse["error"]
    assert facts["attempts"] > coarse["attempts"]
    assert facts["nodes"] > coarse["nodes"]
    for name in STATIC:
        assert abs(finer.mean[name] - laplace.mean[name]) < 0.3 * laplace.sd[name]


def test_cells_that_stay_too_coarse_are_refused(data):
    result = fitted(data, reduction={"max_error": 1e-13})
    facts = result.diagnostics["reduction"]
    assert result.verdict == "REFUSED"
    assert facts["attempts"] == 3
    assert f"off by {facts['error']:.2g} at the draws, after 3 reductions" in result.certificate.reason
    assert "(limit 1e-13, reduction.max_error)" in result.certificate.reason
    assert "laplace: CERTIFIED" in result.diagnostics["methods"]  # but for that


@pytest.mark.parametrize("offset", [1.0, 1.1])
def test_maps_of_which_half_the_pairs_are_without_a_coincidence_are_measurements(offset):
    sparse = homodyne.simulate(
        {"D0": 3e3, "alpha": 0.0, "D_offset": 0.0}, q=0.005, num_frames=80, dt=0.3, phi=(0.0, 90.0), contrast=0.3,
        pixels=1300, mean_counts=0.02, seed=1, offset=offset,
    )  # fmt: skip
    above = np.triu_indices(80, 1)
    assert not sparse.left_out
    assert all(np.mean(one[above] == one.min()) > 0.5 for one in sparse.c2)
    result = homodyne.fit(sparse, mode="static", method="laplace")  # the mode for independent pairs is no start
    np.testing.assert_allclose(result.sigma, [one[above].std() for one in sparse.c2], rtol=0.05)
    assert not result.diagnostics["implausible"]


def test_maps_that_do_not_scatter_are_no_measurement(data):
    c2 = data.c2.copy()
    c2[1] = 1.0
    with pytest.raises(DataError, match="phi = 90 deg do not scatter"):
        fitted(replace(data, c2=c2), parameters={"contrast": {"prior": {"type": "normal", "mean": 0.5, "sd": 1.0}}})
    with pytest.raises(DataError, match="phi = 90° does not vary"):
        homodyne.from_cube(c2, data.t, data.phi, data.q)


def test_initial_values_are_completed_by_medians(data):
    problem = problem_of(data, "static", parameters={"D0": {"initial": 5e3}, "alpha": {"fixed": 0.5}})
    assert problem.space.priors["D_offset"].quantile(0.5) == pytest.approx(1.0)  # the power law is all of the rate
    expected = problem.space.coordinates({"D0": 5e3, "alpha": 0.5, "D_offset": 0.0})
    np.testing.assert_array_equal(problem.initial, expected)
    assert problem_of(data, "static").initial is None


BOUNDED = {"type": "uniform", "low": -1.0, "high": 1.0}
WRONG = {
    "no gap": ({"mode": "laminar_flow"}, InputError, "gap"),
    "unknown mode": ({"mode": "turbulent"}, ConfigError, "analysis_mode"),
    "unknown method": ({"method": "guess"}, ConfigError, "method"),
    "J never positive": (
        {"parameters": {"D_offset": {"fixed": -1e12}}},
        InputError,
        r"allows 0 of .*D0, alpha, D_offset",
    ),
    "initial outside": (
        {"parameters": {"alpha": {"prior": BOUNDED, "initial": 2.0}}},
        InputError,
        "alpha = 2, .*inside their bounds",
    ),
    "prior without support": (
        {"parameters": {"alpha": {"prior": BOUNDED, "bounds": [2.0, 3.0]}}},
        InputError,
        "alpha has no support",
    ),
    "nothing to fit": ({"parameters": {n: {"fixed": v} for n, v in STATIC.items()}}, InputError, "all parameters"),
    "parameter of the other mode": ({"parameters": {"beta": {"fixed": 0.0}}}, ConfigError, "beta"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input(wrong):
    settings, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        fitted(measured(STATIC, (0.0,), num_frames=5, gap=None), **settings)


def test_auto_keeps_the_best_answer(data, laplace, monkeypatch):
    """A usable answer is not destroyed by a later failure, a refused one not preferred to nothing better."""

    def fails(pilot, course, settings, tell):
        raise ConvergenceError("no starting point")

    monkeypatch.setitem(SAMPLERS, "nuts", fails)
    monkeypatch.setattr(certificate, "MIN_ESS", 1e9)
    refused = fitted(measured(STATIC, (0.0,), sigma=0.1, num_frames=25), method="auto")
    assert (refused.verdict, refused.method) == ("REFUSED", "laplace")
    assert refused.diagnostics["methods"][-1] == "nuts: failed (no starting point)"
    monkeypatch.setitem(SAMPLERS, "laplace", fails)
    with pytest.raises(ConvergenceError, match="no starting point"):
        fitted(data, method="auto")


def test_reduced_data_are_checked_by_direct_sums(laplace, data):
    reduction = laplace.diagnostics["reduction"]
    assert reduction["checks"] == 8
    assert reduction["pairs"] == data.num_pairs
    assert reduction["nodes"] < data.num_pairs / 4
    assert reduction["error"] < reduction["limit"] == 0.05


def test_cells_that_are_too_coarse_are_made_again_and_a_limit_that_is_not_reached_refuses(data):
    coarse = {"order": 2, "tolerance": 0.1}
    again = fitted(data, reduction=coarse)
    assert again.diagnostics["reduction"]["attempts"] > 1
    assert again.diagnostics["reduction"]["error"] < 0.05 or again.verdict == "REFUSED"
    refused = fitted(data, reduction=coarse | {"max_error": 1e-12})
    assert refused.verdict == "REFUSED"
    assert "do not stand for all pairs" in refused.certificate.reason
