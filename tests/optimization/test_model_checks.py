"""Prior, model and data, each judged by itself: a wrong prior, and a model that it keeps from the data, show."""

from dataclasses import replace

import numpy as np
import pytest

import homodyne
from homodyne.config.io import load_config
from homodyne.errors import ConvergenceError
from homodyne.optimization import model_checks as agreement
from homodyne.optimization.calibration import calibrated, noise_report
from homodyne.optimization.model_checks import directions, model_checks, prior_distance, prior_shares
from homodyne.optimization.pilot import PilotSettings, pilot_fit
from homodyne.optimization.problem import build_problem

TRUTH = {"D0": 2e4, "alpha": -0.5, "D_offset": 0.0}
FIXED = {"D_offset": {"fixed": 0.0}}


def speckle(truth, seed=1):
    settings = {"q": 0.01, "num_frames": 80, "dt": 0.1, "contrast": 0.3, "mean_counts": 1.0, "pixels": 2000}
    return homodyne.simulate(truth, phi=[0.0], kind="speckle", seed=seed, **settings)


def judgement(data, parameters, origin=0.0):
    """Calibrated pilot fit, and report, of ages that are counted from an origin."""
    data = homodyne.from_cube(np.asarray(data.c2, float), data.t + origin, data.phi, q=0.01)
    config = load_config({"analysis_mode": "static", "parameters": parameters})
    pilot = pilot_fit(build_problem(data, config), np.random.default_rng(0))
    report = noise_report(data, pilot, config.speckle)
    found, _ = calibrated(data, pilot, config.speckle, report, PilotSettings(), np.random.default_rng(0))
    return found, replace(report, checks=model_checks(pilot, report.noise), prior=prior_distance(found))


def normal(mean, sd):
    return {"prior": {"type": "normal", "mean": mean, "sd": sd}}


def test_directions_separate_prior_and_data():
    """Of a prior and a likelihood whose information is known."""
    rng = np.random.default_rng(0)
    prior, data = (x @ x.T for x in rng.standard_normal((2, 3, 3)))
    found = directions(prior, np.linalg.inv(prior + data))
    np.testing.assert_allclose(found.likelihood_covariance, np.linalg.inv(data), rtol=1e-6)
    determined = found.determined
    assert 0 < determined.shape[1] < 3
    gain = [np.diag(determined.T @ x @ determined) for x in (prior, data)]
    assert np.all(gain[0] < gain[1])


@pytest.mark.parametrize("information", [np.nan, 0.0])
def test_information_without_an_inverse_is_one_sentence(information, monkeypatch):
    """Slopes that overflow, and a direction that neither data nor prior know."""
    data = speckle(TRUTH)
    config = load_config({"analysis_mode": "static", "parameters": FIXED})
    pilot = pilot_fit(build_problem(data, config), np.random.default_rng(0))
    score = agreement.score_many

    def spoilt(z, posterior):
        found = score(z, posterior)
        return found._replace(information=np.asarray(found.information) * information)

    monkeypatch.setattr(agreement, "score_many", spoilt)
    with pytest.raises(ConvergenceError, match="no inverse at the mode .D0 .*alpha .*narrow the priors"):
        prior_distance(pilot)


@pytest.mark.slow
def test_what_the_data_do_not_determine_is_the_priors(monkeypatch):
    """Of a Brownian sample, rate and slope are known, but not which part of the rate is a power law."""
    brownian = {"D0": 2e4, "alpha": 0.0, "D_offset": 0.0}

    def shares(truth, parameters):
        return prior_shares(judgement(speckle(truth), parameters)[0])

    found = shares(brownian, {})
    assert found["D0"] > 0.5
    assert found["D_offset"] > 0.5
    assert max(shares(TRUTH, FIXED).values()) < 1e-6
    narrow = shares(TRUTH, {**FIXED, "alpha": normal(-0.5, 0.003)})
    assert narrow["alpha"] > 0.5 > narrow["D0"]
    monkeypatch.setattr(agreement, "_HELD", 1.1)  # planted: nothing is ever held by the prior
    assert max(shares(brownian, {}).values()) == 0.0


@pytest.mark.slow
def test_the_distance_is_that_of_prior_and_likelihood():
    """The likelihood's estimate and width are those of a fit with a wide prior."""
    data = speckle(TRUTH)
    fixed = {**FIXED, "D0": {"fixed": 2e4}}
    wide, _ = judgement(data, {**fixed, "alpha": normal(0.0, 10.0)})
    slope = np.gradient([wide.space.physical(wide.mode.z + step)["alpha"] for step in (-1e-4, 0.0, 1e-4)], 1e-4)[1]
    estimate = float(wide.space.physical(wide.mode.z)["alpha"])
    sd = abs(float(slope)) * np.sqrt(wide.mode.covariance[0, 0])
    for mean, width in ((estimate + 10 * sd, sd), (estimate - 3 * sd, 0.5 * sd), (estimate + 0.5 * sd, sd)):
        _, report = judgement(data, {**fixed, "alpha": normal(mean, width)})
        expected = abs(mean - estimate) / np.hypot(width, sd)
        assert report.prior["parameters"]["alpha"] == pytest.approx(expected, rel=0.1, abs=0.1)
        assert report.prior["together"] == pytest.approx(expected, rel=0.1, abs=0.1)
        assert bool(report.prior["alarm"]) == (expected > 4)


def test_distances_are_those_of_normal_variables():
    """Truths from the prior: the mean square of 20 is within 0.3 and 2.3 in 999 of 1000 cases, and nothing is told."""
    rng, distances = np.random.default_rng(0), []
    for seed in range(20):
        truth = {**TRUTH, "alpha": float(rng.normal(-0.5, 0.05))}
        _, report = judgement(speckle(truth, seed), {**FIXED, "D0": {"fixed": 2e4}, "alpha": normal(-0.5, 0.05)})
        distances.append(report.prior["parameters"]["alpha"])
        assert not report.prior["alarm"]
        assert report.checks["misfit"]["p"] > 1e-3
    assert 0.3 < np.mean(np.square(distances)) < 2.3


def test_ages_that_are_counted_from_elsewhere_are_seen(monkeypatch):
    """The prior of the exponent keeps the law from following. Planted: what it holds is projected away as well."""
    data = speckle(TRUTH)
    _, report = judgement(data, FIXED, origin=1000.0)
    assert report.checks["misfit"]["p"] < 1e-6
    assert report.checks["misfit"]["size"] > 0.03
    assert report.checks["alarms"]
    assert "alpha" in report.prior["alarm"]
    monkeypatch.setattr(agreement, "_HELD", 2.0)
    _, planted = judgement(data, FIXED, origin=1000.0)
    assert planted.checks["misfit"]["p"] > 0.01
    monkeypatch.undo()
    _, right = judgement(data, FIXED)
    assert not right.checks["alarms"]
    assert not right.prior["alarm"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": normal(0.2, 0.001)},
        {"D0": {"prior": {"type": "lognormal", "median": 4e4, "sigma": 0.001}}},
        {"contrast": normal(0.35, 0.0001)},
        {"offset": normal(1.03, 0.0001)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_prior_is_seen(wrong, monkeypatch):
    """By its distance, with a name, and by the misfit that it leaves. Planted: what it holds is projected away."""
    data, (name,) = speckle(TRUTH), wrong
    _, report = judgement(data, {**FIXED, **wrong})
    assert report.checks["misfit"]["p"] < 1e-3
    assert report.prior["parameters"][name] > 4
    assert name in report.prior["alarm"]
    monkeypatch.setattr(agreement, "_HELD", 2.0)
    _, planted = judgement(data, {**FIXED, **wrong})
    assert planted.checks["misfit"]["p"] > 10 * report.checks["misfit"]["p"]


def test_a_narrow_right_prior_is_not_accused():
    right = {"alpha": normal(-0.5, 0.001), "contrast": normal(0.3, 0.001), "offset": normal(1.0, 0.001)}
    _, report = judgement(speckle(TRUTH), {**FIXED, **right})
    assert not report.checks["alarms"]
    assert not report.prior["alarm"]
