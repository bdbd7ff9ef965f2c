"""The pilot fit: modes, curvature and noise on small measurements."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samples import MIRROR, STATIC, TwoRates

import homodyne
from homodyne.config.io import load_config
from homodyne.errors import ConvergenceError
from homodyne.likelihood.posterior import log_densities, log_density, score_many
from homodyne.likelihood.reduction import reduce_pairs
from homodyne.optimization import ascent as ascent_module
from homodyne.optimization import pilot as pilot_module
from homodyne.optimization.ascent import Ends, basins, climb
from homodyne.optimization.passes import Passes
from homodyne.optimization.pilot import PilotSettings, completed, modes_from, noise_at, pilot_fit
from homodyne.optimization.problem import MOST_THINNED, build_problem, sampled_pairs, thinned_pairs
from homodyne.physics.model import MODELS, CorrelationModel, Parameter
from homodyne.physics.space import parameter_space

pytestmark = pytest.mark.slow

BROWNIAN = {"D0": 5e3, "alpha": 0.0, "D_offset": 0.0}
KNOWN = {name: {"fixed": value} for name, value in MIRROR.items() if name not in ("D0", "phi0")}
SETTINGS = PilotSettings(num_candidates=200, num_starts=4)


def problem_of(params, phi=(0.0, 90.0), mode="static", sigma=0.02, seed=1, num_frames=50, **config):
    settings = {"q": 0.0054, "gap": 2e6, "num_frames": num_frames, "dt": 0.1, "contrast": 0.3}
    data = homodyne.simulate(params, phi=phi, kind="independent", sigma=sigma, seed=seed, **settings)
    return build_problem(data, load_config(config, [("analysis_mode", mode)]))


def fitted(problem, seed=0, settings=SETTINGS, **options):
    return pilot_fit(problem, np.random.default_rng(seed), settings, **options)


@pytest.fixture(scope="module")
def problem():
    return problem_of(STATIC)


@pytest.fixture(scope="module")
def found(problem):
    return fitted(problem)


def test_the_mode_is_the_highest_point(found):
    problem, mode = found.problem, found.mode
    exact = problem.posterior(reduce_pairs(problem.maps, *np.triu_indices(50, 1)), found.sigma)
    assert not mode.at_edge
    assert len(found.modes) == 1
    assert mode.newton_step < 0.02
    root = np.linalg.cholesky(mode.covariance)
    around = mode.z + 0.3 * np.random.default_rng(0).standard_normal((60, 3)) @ root.T
    assert log_densities(mode.z[None], exact)[0] > log_densities(around, exact).max() - 0.01
    off = np.linalg.solve(root, problem.space.coordinates(STATIC) - mode.z)
    assert np.linalg.norm(off) < 5  # the truth is where the posterior is


def test_the_covariance_is_the_inverse_of_the_curvature(found):
    hessian = jax.jit(jax.hessian(log_density))(found.mode.z, found.posterior)
    root = np.linalg.cholesky(found.mode.covariance)
    np.testing.assert_allclose(-root.T @ hessian @ root, np.eye(3), atol=0.15)  # that over a third of a sd


def test_the_noise_is_that_of_the_residuals(problem, found):
    """Within four standard errors of the median absolute deviation; outliers in one pair of ten hardly move it."""
    error = 0.02 * 1.17 / np.sqrt(50 * 49 / 2)
    np.testing.assert_allclose(found.sigma, 0.02, atol=4 * error)
    values = problem.maps.values.copy()
    i, j = np.triu_indices(50, 1)
    hit = np.random.default_rng(0).random(i.size) < 0.1
    values[:, i[hit], j[hit]] += 1.0
    spoilt = replace(problem, passes=Passes(replace(problem.maps, values=values)))
    found_there = noise_at(spoilt, problem.posterior(reduce_pairs(problem.maps, i, j), found.sigma), found.mode.z)
    np.testing.assert_allclose(found_there, 0.02, rtol=0.25)
    assert np.all(np.std(values[:, i, j], axis=1) > 0.2)


def test_outliers_are_told():
    problem = problem_of(STATIC)
    values, (i, j) = problem.maps.values.copy(), np.triu_indices(50, 1)
    hit = np.random.default_rng(0).random(i.size) < 0.02
    values[1, i[hit], j[hit]] += 0.3
    spoilt = fitted(replace(problem, passes=Passes(replace(problem.maps, values=values))))
    assert any("heavy tails" in note and "phi = 90 deg" in note for note in spoilt.notes)


@pytest.mark.parametrize("seed", range(4))
def test_brownian_samples_have_a_mode(seed):
    """Exponent 0, where amplitude and offset mean the same: no wall and no ridge without end."""
    problem = problem_of(BROWNIAN, seed=seed)
    found = fitted(problem, seed)
    assert found.num_converged == 4
    for mode in found.modes:
        assert np.isfinite(mode.z).all()
        assert np.linalg.eigvalsh(mode.covariance).min() > 0
        assert np.isfinite(score_many(mode.z[None], found.posterior).gradient).all()
    assert problem.space.coordinate_names[0] == "log_J"  # in the middle of the record, which the data do determine
    assert abs(found.mode.z[0] - np.log(5e3)) < 5 * np.sqrt(found.mode.covariance[0, 0])
    assert np.sqrt(found.mode.covariance[0, 0]) < 0.3


def test_a_maximum_at_an_edge_is_flagged():
    """A decay of which nothing is seen: the rate may be as small as the prior likes."""
    still = {"D0": 1e-3, "alpha": 0.0, "D_offset": 0.0}
    fixed = {"alpha": {"fixed": -0.5}, "D_offset": {"fixed": 0.0}}
    prior = {"D0": {"prior": {"type": "uniform", "low": 10.0, "high": 1e6}}}
    edge = fitted(problem_of(still, parameters=fixed | prior))
    assert edge.mode.at_edge
    assert any("highest at an edge" in note for note in edge.noting().notes)
    assert np.isfinite(np.linalg.cholesky(edge.mode.covariance)).all()
    inside = fitted(problem_of(STATIC | {"D_offset": 0.0}, parameters=fixed | prior))
    assert not inside.mode.at_edge
    assert not any("edge" in note for note in inside.noting().notes)


@pytest.fixture(scope="module")
def mirrored():
    """One angle and a known shear rate: phi0 = 80 and 160 degrees do the same to the scattering vector at 30."""
    problem = problem_of(MIRROR, (30.0,), "laminar_flow", parameters=KNOWN)
    return problem, fitted(problem, settings=PilotSettings(num_candidates=400, num_starts=12))


def test_several_modes_are_kept(mirrored):
    problem, found = mirrored
    assert len(found.modes) == 2
    phi0 = [float(problem.space.physical(mode.z)["phi0"]) for mode in found.modes]
    assert sorted(x % 180 for x in phi0) == pytest.approx([80.0, 160.0], abs=8.0)
    assert found.modes[0].log_density >= found.modes[1].log_density > found.modes[0].log_density - 0.1
    assert found.noting().notes[0].startswith("the posterior has 2 modes; the others lie 0.0 below")
    turned = np.array([found.modes[0].z, found.modes[0].z + problem.space.periods])  # a full turn is no other mode
    assert len(modes_from(found.posterior, turned, SETTINGS)) == 1


def test_modes_that_carry_no_mass_are_left_out():
    """Maps at two angles tell one flow direction from the other by far."""
    problem = problem_of(MIRROR, (30.0, 75.0), "laminar_flow", parameters=KNOWN)
    found = fitted(problem, settings=PilotSettings(num_candidates=400, num_starts=12))
    assert len(found.modes) == 1
    assert float(problem.space.physical(found.mode.z)["phi0"]) % 180 == pytest.approx(80.0, abs=8.0)
    mirror = problem.space.coordinates({**problem.space.physical(found.mode.z), "phi0": 160.0})
    often = pilot_module._OFTEN * [found.mode.z]
    once = replace(found, ends=np.stack([*often, np.asarray(mirror)]))  # as one start of thinned data
    judged = completed(once, np.random.default_rng(1), SETTINGS)
    assert judged.unseen < pilot_module.UNSEEN
    assert judged.num_starts == found.num_starts


def test_the_search_starts_where_the_user_says(mirrored):
    """With a single start that is the only one, however far others fit better."""
    problem, _ = mirrored
    one = PilotSettings(num_candidates=50, num_starts=1)
    for value in (100.0, 140.0):  # to either side of the wave vector's mirror axis, at 120 degrees
        initial = problem.space.coordinates({**MIRROR, "phi0": value})
        found = fitted(replace(problem, initial=np.asarray(initial)), settings=one)
        expected = 80.0 if value < 120.0 else 160.0
        assert float(problem.space.physical(found.mode.z)["phi0"]) % 180 == pytest.approx(expected, abs=8.0)
        assert found.num_starts == 1
        assert completed(found, np.random.default_rng(1), one) is found  # nobody is asked to look
        assert any("one start was asked for" in note for note in found.notes)


def test_starts_are_doubled_until_no_mode_is_missing(mirrored, monkeypatch):
    problem, _ = mirrored
    few = PilotSettings(num_candidates=400, num_starts=2)
    found = fitted(problem, settings=few)
    assert len(found.modes) == 2
    assert completed(found, np.random.default_rng(1), few).unseen < pilot_module.UNSEEN
    assert found.num_starts > 2
    monkeypatch.setattr(pilot_module, "_scan", lambda thin, climbs, candidates: climbs.z[:0])
    monkeypatch.setattr(pilot_module, "_DOUBLINGS", 0)
    found = [fitted(problem, settings=few, seed=seed) for seed in range(4)]  # planted: nobody looks further
    assert max(completed(one, np.random.default_rng(1), few).unseen for one in found) > 0.3


def test_what_is_missing_is_judged_under_the_posterior_that_is_reported(mirrored):
    """One of two equal modes was found by one start of three: more starts are made, until it is found often enough."""
    problem, _ = mirrored
    few = PilotSettings(num_candidates=400, num_starts=2)
    found = fitted(problem, settings=few)
    assert len(found.modes) == 2
    (best, other), rng = found.modes, np.random.default_rng(1)
    once = replace(found, ends=np.stack([best.z, best.z, other.z]), modes=(best,))
    mended = completed(once, rng, few)
    assert mended.num_starts > once.num_starts
    assert mended.unseen < pilot_module.UNSEEN
    assert len(mended.modes) == 2


@dataclass(frozen=True)
class Exchangeable(TwoRates):
    """The same, which says so."""

    name = "exchangeable"

    def alternatives(self, params, t_middle):
        """Both exchanged."""
        return ({"fast": params["slow"], "slow": params["fast"]},)


def test_modes_are_looked_for_where_the_model_says_that_data_do_not_tell(monkeypatch):
    """Five starts at one of two modes; planted: a model that does not say so, of which one mode is found."""
    t, rng = 0.1 * np.arange(1, 61), np.random.default_rng(1)
    lag = np.abs(t[:, None] - t)
    c2 = 1.0 + 0.3 * 0.25 * (np.exp(-4.0 * lag) + np.exp(-0.4 * lag)) ** 2 + 0.01 * rng.standard_normal((60, 60))
    data = homodyne.from_cube(np.tril(c2) + np.tril(c2, -1).T, t, 0.0, 0.01)
    monkeypatch.setitem(MODELS, Exchangeable.name, Exchangeable)
    problem = build_problem(data, load_config({"analysis_mode": Exchangeable.name}))
    thin = problem.posterior(problem.thinned(2000), np.full(1, 0.01))
    climbs = climb(thin, np.log([[4.0, 0.4]] * 5), 100)
    both = pilot_module._doubled(thin, lambda: thin, climbs, np.empty((0, 2)), SETTINGS)[1]
    assert both.counts.tolist() == [5, 5]
    np.testing.assert_allclose(both.z[0], both.z[1][::-1], atol=0.02)
    monkeypatch.setattr(Exchangeable, "alternatives", CorrelationModel.alternatives)
    assert len(pilot_module._doubled(thin, lambda: thin, climbs, np.empty((0, 2)), SETTINGS)[1].counts) == 1


def test_ends_on_one_ridge_are_one_mode(problem, found):
    """Far apart, but with no lower density between them."""
    posterior = found.posterior
    flat = replace(posterior, sigma=1e3 * np.ones_like(found.sigma))  # the data say nothing
    root = found.space.prior_information(found.mode.z)
    points = found.mode.z + np.array([[0.0, 0.0, 0.0], [0.3, 0.3, 0.0], [-0.3, 0.0, 0.3]])
    sharp = np.repeat(1e4 * np.asarray(root)[None] + 1e4 * np.eye(3), 3, axis=0)
    assert basins(Ends(points, np.asarray(log_densities(points, flat)), sharp), flat).counts.tolist() == [3]
    heights = np.asarray(log_densities(points, posterior))
    assert len(basins(Ends(points, heights + 1e6, sharp), posterior).counts) == 3  # planted: as if there were barriers


def test_curvature_that_was_learnt_is_used_where_it_is_finite():
    """A coordinate of which nothing is known any more, and a step across which the gradient hardly changes."""
    none, large = np.diag([0.0, 1.0]), np.diag([1e10, 1.0])
    both = np.stack([none, np.eye(2)])
    np.testing.assert_array_equal(ascent_module._curvature(both, large), [none, large + np.eye(2)])
    nearly, step = np.array([[1e-200, 1.0]]), np.array([[1.0, 0.0]])
    np.testing.assert_array_equal(ascent_module._learnt(large[None], none[None], step, nearly), large[None])


def test_no_climb_goes_on_from_where_only_rounding_is_left():
    """Two elements of an information of heterodyne flow, at a speed whose phase has no digits after its point."""
    broken = -np.outer([1e15, 3e17], [1e15, 3e17])
    sound = np.array([[1e30, 1e14], [1e14, -1e14]])  # below 0 by rounding
    gone = np.full((2, 2), np.nan)
    at = ascent_module.Scoring(np.zeros(3), np.ones((3, 2)), np.stack([broken, sound, gone]))
    assert ascent_module._usable(at).tolist() == [False, True, False]
    assert np.isfinite(ascent_module._damped(sound[None], np.ones((1, 2)), np.array([1e-2]))).all()


def test_ways_over_places_without_density_are_no_connection(problem):
    space = problem.space
    posterior = problem.posterior(problem.thinned(2000), np.full(2, 0.02))
    nowhere = np.array([[0.0, 0.0, 60.0]])  # negative rates
    assert not np.isfinite(score_many(nowhere, posterior).value).any()
    moved = ascent_module._along_ridge(nowhere, np.ones(space.dim), posterior)
    np.testing.assert_array_equal(moved, nowhere)


class Parabola(CorrelationModel):
    """The data say what level - bend² is: a ridge that no straight way follows."""

    name = "parabola"
    parameters = (
        Parameter("level", ("normal", {"mean": 0.0, "sd": 1.0})),
        Parameter("bend", ("normal", {"mean": 0.0, "sd": 1.0})),
    )

    def g(self, params, t1, t2, q, phi, gap):
        rate = jnp.exp(params["level"] - params["bend"] ** 2)
        return jnp.exp(-rate * (jnp.asarray(t2) - t1)) + 0.0 * q * phi


def test_ends_on_one_bent_ridge_are_one_mode(problem, monkeypatch):
    space = parameter_space(Parabola(), problem.maps.t)
    i, j = np.triu_indices(50, 1)
    own = replace(problem, space=space)
    posterior = own.posterior(reduce_pairs(problem.maps, i, j), np.full(2, 0.02))
    level, bend = climb(posterior, np.zeros((1, 2)), 30).z[0]
    bends = np.array([0.0, -1.2, 1.2])
    points = np.stack([level - bend**2 + bends**2, bends], axis=1)
    at = score_many(points, posterior)
    sharp = Ends(points, at.value, at.information + np.diag([1e4, 1e4]))
    assert basins(sharp, posterior).counts.tolist() == [3]
    monkeypatch.setattr(ascent_module, "_ALONG_RIDGE", 0)  # planted: straight ways only
    assert len(basins(sharp, posterior).counts) > 1


def test_sampled_noise_has_its_own_mode(problem, found):
    free = fitted(problem, sample_noise=True)
    assert free.posterior.sigma is None
    assert free.mode.z.shape == (5,)
    gradient = np.asarray(jax.jit(jax.grad(log_density))(free.mode.z, free.posterior))
    root = np.linalg.cholesky(free.mode.covariance)
    assert np.linalg.norm(root.T @ gradient) < 0.3
    shifted = free.mode.z + np.array([0, 0, 0, 0.1, 0])
    assert np.linalg.norm(root.T @ np.asarray(jax.jit(jax.grad(log_density))(shifted, free.posterior))) > 3


def test_priors_that_exclude_the_data_are_told(problem, monkeypatch):
    posterior = problem.posterior(problem.thinned(2000), np.full(2, 0.02))
    nowhere = np.tile([0.0, 0.0, 60.0], (4, 1))  # negative rates
    assert not len(climb(posterior, nowhere, 100).z)
    monkeypatch.setattr(pilot_module, "_screen", lambda *arguments: (nowhere, np.full(2, 0.02)))
    with pytest.raises(ConvergenceError, match="zero at the best 4 of 200 draws.*homodyne inspect"):
        fitted(problem)


def test_climbs_end_at_maxima(problem, found):
    """From anywhere near: all at one place, where the gradient vanishes."""
    root = np.linalg.cholesky(found.mode.covariance)
    starts = found.mode.z + 3 * np.random.default_rng(0).standard_normal((6, 3)) @ root.T
    ends = climb(found.posterior, starts, 100)
    assert len(ends.z) == 6
    assert np.all(np.diff(ends.value) <= 0)
    off = np.linalg.solve(root, (ends.z - found.mode.z).T)
    assert np.abs(off).max() < 0.05
    assert len(ends.separate(problem.space, np.inf).z) == 1
    gradient = score_many(ends.z, found.posterior).gradient
    assert np.abs(gradient @ root).max() < 0.05


def test_thinned_pairs_see_every_age_and_every_scale_of_lag():
    problem = problem_of(STATIC, num_frames=400)
    i, j = thinned_pairs(problem.maps, 2 * MOST_THINNED)
    assert np.all((i >= 0) & (i < j) & (j < 400))
    assert len(set(zip(i.tolist(), j.tolist(), strict=True))) == i.size
    assert 0.4 * MOST_THINNED < i.size < 1.2 * MOST_THINNED
    assert {1, 2, 3} <= set((j - i).tolist())
    assert (j - i).max() > 350
    for low in (0, 100, 200, 300):
        assert np.any((i >= low) & (i < low + 100))
    few = problem_of(STATIC, num_frames=20)
    i, j = thinned_pairs(few.maps, 10_000)
    np.testing.assert_array_equal(np.stack([i, j]), np.triu_indices(20, 1))


def test_sampled_pairs_are_evenly_spread(problem):
    i, j = sampled_pairs(problem.maps, 10_000)
    np.testing.assert_array_equal(np.stack([i, j]), np.triu_indices(50, 1))
    i, j = sampled_pairs(problem.maps, 100)
    assert i.size == 100
    every = np.flatnonzero(np.isin(50 * np.arange(50)[:, None] + np.arange(50), 50 * i + j)[np.triu_indices(50, 1)])
    assert np.ptp(np.diff(every)) <= 1
