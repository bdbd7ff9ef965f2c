"""The calibrated fit: where the sandwich is made, the mode is."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from samples import TwoRates
from scipy import stats

import homodyne
from benchmarks.validation import wide
from homodyne.certificate.importance import smoothed
from homodyne.config.io import load_config
from homodyne.likelihood.posterior import evaluate_many, log_densities
from homodyne.optimization import calibration
from homodyne.optimization.calibration import calibrated, noise_report
from homodyne.optimization.exploration import Seen, explored
from homodyne.optimization.pilot import PilotSettings, pilot_fit
from homodyne.optimization.problem import build_problem
from homodyne.physics.model import MODELS, find_model

pytestmark = pytest.mark.slow


def silent(stage, done, total):
    """Progress that nobody watches."""


SLOW = {"D0": 1000.0, "alpha": -0.8, "D_offset": 25.0}


def slow_decay(fixed, seed):
    """Speckle of which an eighth decays during the record: data, settings, pilot fit, report on the noise."""
    settings = {"q": 0.0054, "num_frames": 120, "dt": 0.25, "contrast": 0.3, "mean_counts": 10.0, "pixels": 1000}
    data = homodyne.simulate(SLOW, phi=[0.0], seed=seed, **settings)
    return fitted(data, "static", seed, {name: {"fixed": value} for name, value in fixed.items()})


def case_of(kind, seed):
    """A measurement of the wide study with its pilot fit under the default priors."""
    data, config = wide.draw(kind, seed, (60, 80)).measure(seed), load_config({"analysis_mode": wide.KINDS[kind]})
    pilot = pilot_fit(build_problem(data, config), np.random.default_rng(0))
    return data, pilot, config.speckle, noise_report(data, pilot, config.speckle)


WIDE = {"D_offset": 1e4, "gamma_dot_offset": 0.1}  # priors of offsets under which densities rise up to edges
SCALING = {
    "contrast": {"prior": {"type": "normal", "mean": 0.5, "sd": 1.0}},
    "offset": {"prior": {"type": "normal", "mean": 1.0, "sd": 1.0}},
}  # with which contrast and rate leave each other open


def fitted(data, mode, seed, parameters=(), priors=WIDE):
    """The data with settings, pilot fit, and report on the noise."""
    names = find_model(mode).parameter_names
    broad = {n: {"prior": {"type": "normal", "mean": 0.0, "sd": sd}} for n, sd in priors.items() if n in names}
    config = load_config({"analysis_mode": mode, "parameters": SCALING | broad | dict(parameters)})
    pilot = pilot_fit(build_problem(data, config), np.random.default_rng(seed))
    return data, pilot, config.speckle, noise_report(data, pilot, config.speckle)


def remade_at_mode(data, pilot, known, report):
    """Widths by a sandwich made at the calibrated mode over those of the fit, and what the fit says of its own."""
    found, last = calibrated(data, pilot, known, report, PilotSettings(), np.random.default_rng(0))
    again = calibration._report_at(found.mode, data, pilot, known)
    ratio = np.sqrt(np.diag(again.covariance) / np.diag(last.covariance))
    return ratio, [note for note in last.notes if "take the widths as rough" in note]


def test_steps_that_swing_are_cut_in_half(monkeypatch):
    """The wider the sandwich, the nearer the mode is to the prior's, where it is narrower; the swing is damped."""
    monkeypatch.setattr(calibration, "_SLOWER", (0.0,))  # the sandwich of the last step stays
    fit = slow_decay({"alpha": -0.8}, 4)
    ratio, notes = remade_at_mode(*fit)
    assert not notes
    assert np.all(np.abs(np.log(ratio)) < np.log(1.3))
    monkeypatch.setattr(calibration, "_SHRINKS", np.inf)
    ratio, notes = remade_at_mode(*fit)
    assert notes
    assert np.any(np.abs(np.log(ratio)) > np.log(1.2))


def test_a_place_from_which_no_mode_is_reached_is_left_half_way(monkeypatch):
    fit, search, places = slow_decay({"alpha": -0.8}, 0), calibration.modes_from, []

    def no_mode_the_second_time(posterior, starts, settings):
        places.append(starts[0])
        return [] if len(places) in (2, 3) else search(posterior, starts, settings)  # from draws about it neither

    monkeypatch.setattr(calibration, "modes_from", no_mode_the_second_time)
    ratio, notes = remade_at_mode(*fit)
    assert not notes
    assert np.all(np.abs(np.log(ratio)) < np.log(1.3))
    np.testing.assert_allclose(places[3], (places[0] + places[1]) / 2, rtol=1e-6)


def test_a_density_that_rises_up_to_a_rate_of_zero_has_a_mode_too():
    """With three free parameters it rises to J = 0 at the last frame; the point that stands for the mode is inside."""
    data, pilot, known, report = slow_decay({}, 4)
    found = calibrated(data, pilot, known, report, PilotSettings(), np.random.default_rng(0))[0]
    assert found.mode.at_edge
    assert any("highest at an edge" in note for note in found.noting().notes)
    assert not pilot.mode.at_edge
    proposal = explored(found, np.random.default_rng(0), 1000, silent).proposal
    points = proposal.draw(1000, np.random.default_rng(1))
    assert smoothed(log_densities(points, found.posterior) - proposal.log_density(points)).ess > 200


def test_points_above_the_best_mode_are_remembered_and_never_believed_of_an_approximation():
    """Planted: an approximation that is far too high five standard deviations away, to which proposals would go."""
    pilot = case_of("Brownian", 23)[1]
    mode, exact = pilot.mode, partial(log_densities, posterior=pilot.posterior)
    points = mode.z + np.linspace(0.0, 8.0, 9)[:, None] * np.sqrt(np.diag(mode.covariance))

    def wrong(points):
        return exact(points) + 1e3 + np.where(points[:, 0] > mode.z[0] + 5 * np.sqrt(mode.covariance[0, 0]), 500.0, 0.0)

    seen = Seen(pilot, silent)
    np.testing.assert_allclose(seen.of(wrong)(points), exact(points) + 1e3, rtol=1e-9)
    assert np.ptp(wrong(points) - exact(points)) > 400.0
    assert not len(seen.highest)
    lower = replace(pilot, modes=(replace(mode, log_density=mode.log_density - 10.0),))
    above = explored(lower, np.random.default_rng(0), 500, silent).above
    assert len(above) == 4
    assert exact(np.array(above)).min() > lower.mode.log_density + 2.0


def test_every_mode_has_a_calibration_of_its_own(monkeypatch):
    """Exchange of both components changes nothing, under correlated noise neither.

    Planted: a calibration about the best mode alone, under which the other one moves or goes.
    """
    monkeypatch.setitem(MODELS, TwoRates.name, TwoRates)
    data = homodyne.simulate(
        {"fast": 4.0, "slow": 0.4}, model="two_rates", q=0.01, num_frames=100, dt=0.1, contrast=0.3, mean_counts=10.0,
        pixels=1000, phi=[0.0], seed=1,
    )  # fmt: skip
    pilot, known, report = fitted(data, "two_rates", 1, priors={})[1:]

    def found():
        return calibrated(data, pilot, known, report, PilotSettings(), np.random.default_rng(0))[0]

    both = found()
    assert len(both.modes) == 2
    assert both.posterior.calibration.widening > 1.5
    near = both.mode.draw(50, np.random.default_rng(1))
    here, there = log_densities(near, both.posterior), log_densities(near[:, ::-1], both.posterior)
    np.testing.assert_allclose(here, there, atol=0.3)  # the sandwiches were made up to 0.3 sd from the modes
    monkeypatch.setattr(calibration, "_OTHER", np.inf)
    one = found()
    assert len(one.posterior.calibration.modes) == 1
    near = one.mode.draw(50, np.random.default_rng(1))
    here, there = log_densities(near, one.posterior), log_densities(near[:, ::-1], one.posterior)
    assert np.abs(here - there).max() > 20.0


def test_a_density_falls_where_the_model_does_not_fit():
    """Contrast and rate leave each other open; far away the change of the contrast must not make the prior agree.

    Planted: a change without bound, after which no correlation decay at all was likelier than the truth.
    """
    found, report = calibrated(*case_of("Brownian", 23), PilotSettings(), np.random.default_rng(0))
    assert not any("slower decay" in note for note in report.notes)
    rate = list(found.space.coordinate_names).index("log_J")
    away = np.tile(found.mode.z, (60, 1))
    away[:, rate] -= np.linspace(2.0, 12.0, 60)
    assert (log_densities(away, found.posterior) - found.mode.log_density).max() < -50.0
    whole = found.posterior.calibration
    unbounded = replace(whole.adjustments, scaling_reach=np.full((1, 4, 2), 1e9))
    planted = replace(found.posterior, calibration=replace(whole, adjustments=unbounded))
    assert (log_densities(away, planted) - log_densities(found.mode.z[None], planted)).max() > 0.0


def test_a_slow_decay_that_looks_like_a_baseline_is_not_forgotten(monkeypatch):
    """A tenth of a decay in the record: a fast one of a tenth of the contrast, over a baseline, fits as well.

    Planted: no slower decay is looked for, and the baseline is six standard deviations off.
    """
    fit, said = case_of("offset", 38), "a slower decay explains the data nearly as well"
    found, report = calibrated(*fit, PilotSettings(), np.random.default_rng(0))
    assert any(said in note for note in report.notes)
    truth = found.space.coordinates({"D0": 30.0, "alpha": 0.16, "D_offset": 46.0})
    at = evaluate_many(truth[None], found.posterior)
    off = (at.scaling_mean[0, 0, 0] - 1.0) / np.sqrt(at.scaling_covariance[0, 0, 0, 0])
    assert found.mode.log_density - at.log_density[0] < 4.0
    assert abs(off) < 2.5
    monkeypatch.setattr(calibration, "_SLOWER", (0.0,))
    planted, narrow = calibrated(*fit, PilotSettings(), np.random.default_rng(0))
    assert planted.mode.log_density - log_densities(truth[None], planted.posterior)[0] > 5.0
    assert np.linalg.slogdet(report.covariance)[1] > np.linalg.slogdet(narrow.covariance)[1] + 1.0


def test_a_slower_decay_that_no_pair_determines_is_passed_over():
    """Its mode has an infinite covariance, at which the noise ended in "Eigenvalues did not converge"."""
    data = wide.draw("offset", 3).measure(3)
    assert homodyne.fit(data, mode="static", seed=3).verdict in ("CERTIFIED", "CORRECTED")


def test_a_slow_flow_has_a_mode_inside():
    """A slow flow whose shear rate hardly changes: a power law of small exponent and large amplitude does as well."""
    flow = {"gamma_dot_0": 1.3e-4, "beta": -0.2, "gamma_dot_offset": -4e-5, "phi0": 2.0}
    settings = {"q": 0.0054, "gap": 2e6, "num_frames": 120, "dt": 0.25, "contrast": 0.3, "mean_counts": 1.0}
    params = {"D0": 2000.0, "alpha": -1.3, "D_offset": 50.0, **flow}
    data = homodyne.simulate(params, phi=[0.0, 45.0, 90.0], pixels=1000, seed=4, **settings)
    fit = fitted(data, "laminar_flow", 4, priors={})
    found = calibrated(*fit, PilotSettings(), np.random.default_rng(0))[0]
    assert not found.mode.at_edge
    truth = log_densities(found.space.coordinates(params)[None], found.posterior)[0]
    assert 2.0 * (found.mode.log_density - truth) < stats.chi2(7).ppf(1 - 1e-3)
