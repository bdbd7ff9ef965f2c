from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homodyne.errors import ConvergenceError, InputError
from homodyne.optimization import nuts
from homodyne.optimization.nuts import NutsSettings, diagnose, sample_posterior
from homodyne.testing.densities import banana, bounded, gaussian, random_covariance, skewed, two_modes
from homodyne.testing.statistics import (
    assert_covariance,
    assert_mean,
    assert_quantiles,
    assert_same_distribution,
)

pytestmark = pytest.mark.slow

jax.config.update("jax_enable_x64", True)

SHORT = NutsSettings(num_warmup=20, num_samples=30, num_chains=2)
SCALES = (1e4, 1e-8, 1.0, 1e-3)


def sample(problem, settings, seed=0, **options):
    return sample_posterior(problem.log_density, *problem.modes[0], settings, jax.random.key(seed), **options)


@pytest.fixture(scope="module")
def normal():
    """A correlated normal posterior with scales from 1e-8 to 1e4, and a default run on it."""
    problem = gaussian(random_covariance(7, 0, scales=SCALES), mean=np.resize([3e4, -2e-8, 5.0], 7))
    return problem, sample(problem, NutsSettings())


class TestSampling:
    def test_normal_posterior_is_exact(self, normal):
        problem, run = normal
        assert_mean(run.draws, problem.mean)
        assert_covariance(run.draws, problem.mean, problem.covariance)
        assert_quantiles(run.draws, problem.quantile)

    def test_planted_errors_are_seen(self, normal):
        problem, run = normal
        shifted = run.draws + 0.3 * problem.sd * np.eye(7)[2]
        with pytest.raises(AssertionError, match="mean 2"):
            assert_mean(shifted, problem.mean)
        wide = problem.mean + 1.2 * (run.draws - problem.mean)
        with pytest.raises(AssertionError, match="covariance"):
            assert_covariance(wide, problem.mean, problem.covariance)
        with pytest.raises(AssertionError, match="quantile"):
            assert_quantiles(shifted, problem.quantile)
        with pytest.raises(AssertionError, match="feature"):
            assert_same_distribution(shifted, problem.draw(4000, 1))

    def test_defaults_reach_400_effective_draws_in_4200_gradients(self, normal):
        problem, run = normal
        report = diagnose(run.draws, run.stats, problem.names)
        assert report.converged, report.problems
        assert min(report.ess_bulk.min(), report.ess_tail.min()) > 400
        assert run.num_gradients < 4200

    def test_statistics_describe_the_draws(self, normal):
        problem, run = normal
        assert run.draws.shape == (4, 250, 7)
        assert run.draws.dtype == np.float64
        expected = jax.vmap(problem.log_density)(run.draws[2])
        np.testing.assert_allclose(run.stats["lp"][2], expected, rtol=1e-8, atol=1e-6)
        assert np.all(run.stats["energy"] >= -run.stats["lp"])
        assert np.all(run.stats["num_steps"] < 2 ** run.stats["tree_depth"])
        assert 0.6 < run.stats["acceptance_rate"].mean() < 0.85
        assert set(run.timings) == {"compile", "warmup", "sampling"}

    def test_ridge_is_exact(self):
        problem = banana(2, 0.5)
        run = sample(problem, NutsSettings(num_warmup=150, num_samples=1500, target_accept_prob=0.95))
        assert_mean(run.draws, problem.mean)
        assert_quantiles(run.draws, problem.quantile)
        with pytest.raises(AssertionError, match="quantile"):
            assert_quantiles(run.draws, banana(2, 0.8).quantile)

    def test_skewed_posterior_is_exact(self):
        problem = skewed(3)
        run = sample(problem, NutsSettings(num_samples=500))
        assert_mean(run.draws, problem.mean)
        assert_covariance(run.draws, problem.mean, problem.covariance)
        assert_same_distribution(run.draws, problem.draw(4000, 1))

    def test_edge_of_the_support_is_never_crossed(self):
        problem = bounded(2, peak=1.0)
        run = sample(problem, NutsSettings(num_samples=1000))
        assert np.all(run.draws[..., 0] > 0.0)
        assert_quantiles(run.draws, problem.quantile)

    def test_wrong_pilot_covariance_costs_time_not_truth(self):
        problem = gaussian(random_covariance(4, 1, condition=1e3))
        wrong = np.diag(np.diag(problem.covariance))
        runs = {}
        for adapt in (False, True):
            settings = NutsSettings(num_warmup=200, num_samples=500, adapt_mass=adapt)
            runs[adapt] = sample_posterior(problem.log_density, problem.mean, wrong, settings, jax.random.key(1))
            assert_mean(runs[adapt].draws, problem.mean)
            assert_covariance(runs[adapt].draws, problem.mean, problem.covariance)
        assert runs[True].num_gradients < 0.5 * runs[False].num_gradients

    def test_gradients_are_counted(self):
        """More draws cost the steps of their trajectories, and those before them stay as they were."""
        short, longer = (sample(skewed(2), NutsSettings(20, count, 2)) for count in (30, 60))
        np.testing.assert_array_equal(longer.draws[:, :30], short.draws)
        more = longer.stats["num_steps"][:, 30:].sum()
        assert longer.num_gradients - short.num_gradients == more
        assert short.num_gradients > short.stats["num_steps"].sum() + 20 * 2  # and those of the warm-up


def test_other_data_of_the_same_shapes_are_sampled_by_the_same_program():
    traced = []

    def log_density(z, mean):
        traced.append(z)
        return -0.5 * jnp.sum((z - mean) ** 2)

    runs = []
    for center in (0.0, 5.0):
        before, mean = len(traced), np.full(2, center)
        settings = NutsSettings(num_samples=500)
        runs.append(nuts.sample(log_density, mean, nuts.Frame(mean, np.eye(2)), settings, jax.random.key(0)))
        assert_mean(runs[-1].draws, mean)
    assert len(traced) - before <= 1  # that of the check of its type
    np.testing.assert_allclose(runs[0].draws + 5.0, runs[1].draws, atol=1e-9)


def shifted_density(name):
    """A log density that its argument shifts and widens; a new function, so that its programs are compiled anew."""
    problem = {"skewed": skewed(2), "normal": gaussian(random_covariance(3, 1), mean=np.zeros(3))}[name]

    def log_density(z, change):
        return problem.log_density((z - change[0]) / change[1])

    return problem, log_density


def sample_by_approximation(name):
    problem, log_density = shifted_density(name)
    frame, settings = nuts.Frame(*problem.modes[0]), NutsSettings(num_samples=1500)
    exact, approximate = np.array([0.0, 1.0]), np.array([0.2 * float(np.sqrt(frame.covariance[0][0])), 1.2])
    run = nuts.sample(log_density, exact, frame, settings, jax.random.key(1), approximation=approximate)
    return problem, run


class TestApproximation:
    """Moves by a density that is shifted and wider."""

    @pytest.mark.parametrize("name", ["normal", "skewed"])
    def test_draws_are_those_of_the_exact_density(self, name):
        problem, run = sample_by_approximation(name)
        assert 0.3 < run.accepted < 0.98
        assert_quantiles(run.draws, problem.quantile)
        lp = jax.vmap(problem.log_density)(run.draws.reshape(-1, run.draws.shape[2]))
        np.testing.assert_allclose(run.stats["lp"].ravel(), lp, atol=1e-9)

    def test_without_the_test_they_are_not(self, monkeypatch):
        monkeypatch.setattr(
            nuts, "_accepted", lambda before, moved, exact, number: moved._replace(exact=exact)
        )  # planted
        problem, run = sample_by_approximation("normal")
        with pytest.raises(AssertionError, match="quantile"):
            assert_quantiles(run.draws, problem.quantile)


def jumps_of(problem, attempts=1, scale=1.3):
    """Proposals at both modes, and one that has no share."""
    centres = np.array([mode for mode, _ in problem.modes] + [np.zeros(2)])
    factors = np.array([scale * np.linalg.cholesky(c) for _, c in problem.modes] + [np.eye(2)])
    return nuts.Jumps(np.log([0.5, 0.5, 1e-300]), centres, factors, np.linalg.inv(factors), 7.0, attempts)


def sample_with_jumps(jumps):
    problem = two_modes(2, weight=0.3)
    settings = NutsSettings(num_samples=1000)

    def log_density(z, argument):
        return problem.log_density(z)

    frame = nuts.Frame(np.zeros(2), np.eye(2), jumps=jumps(problem))
    run = nuts.sample(log_density, (), frame, settings, jax.random.key(0))
    return problem, run


class TestJumps:
    """Two modes that the no-U-turn sampler alone never leaves."""

    @pytest.mark.parametrize("attempts", [1, 7, nuts.MOST_ATTEMPTS])
    def test_both_modes_have_their_share(self, attempts):
        problem, run = sample_with_jumps(lambda problem: jumps_of(problem, attempts))
        assert_quantiles(run.draws, problem.quantile)
        assert diagnose(run.draws, run.stats, problem.names).converged

    def test_many_attempts_make_up_for_a_poor_proposal(self):
        """Of one that is sixty times too wide, a point in thousands is of use."""
        changes = []
        for attempts in (1, nuts.MOST_ATTEMPTS):
            _, run = sample_with_jumps(lambda problem, n=attempts: jumps_of(problem, n, scale=60.0))
            mode = run.draws[..., 0] > 4.0
            changes.append(np.count_nonzero(mode[:, 1:] != mode[:, :-1]))
        assert changes[1] > 5 * changes[0]

    @pytest.mark.parametrize("attempts", [1, 7])
    def test_a_wrong_density_of_the_jumps_is_seen(self, attempts, monkeypatch):
        monkeypatch.setattr(nuts.Jumps, "log_density", lambda self, w: -0.2 * w[0])  # planted
        problem, run = sample_with_jumps(lambda problem: jumps_of(problem, attempts))
        with pytest.raises(AssertionError, match="quantile"):
            assert_quantiles(run.draws, problem.quantile)

    def test_without_jumps_chains_stay_in_a_mode(self):
        problem, run = sample_with_jumps(lambda problem: None)
        assert not diagnose(run.draws, run.stats, problem.names).converged or np.ptp(run.draws[..., 0].mean(axis=1)) < 1


@pytest.fixture(scope="module")
def short():
    """A short run on a skewed posterior."""
    return sample(skewed(2), SHORT)


class TestRepeatability:
    def test_reports_do_not_change_the_draws(self, short, monkeypatch):
        monkeypatch.setattr(nuts, "CHUNK_SECONDS", 0.0)
        reports = []
        single = sample(skewed(2), SHORT, progress=lambda *report: reports.append(report))
        assert reports == [("sampling", 2 * (k + 1), 100) for k in range(50)]  # of two chains
        np.testing.assert_array_equal(single.draws, short.draws)
        for name, values in short.stats.items():
            np.testing.assert_array_equal(single.stats[name], values)

    def test_a_chain_depends_on_its_number_only(self, short):
        three = sample(skewed(2), NutsSettings(20, 30, 3))
        np.testing.assert_array_equal(short.draws, three.draws[:2])
        assert not np.array_equal(short.draws[0], short.draws[1])

    def test_keys_of_both_kinds_are_accepted_and_matter(self, short):
        problem = skewed(2)
        old = sample_posterior(problem.log_density, *problem.modes[0], SHORT, jax.random.PRNGKey(0))
        np.testing.assert_array_equal(old.draws, short.draws)
        assert not np.array_equal(short.draws, sample(problem, SHORT, seed=1).draws)

    def test_an_interrupt_leaves_after_the_first_transition(self):
        reports = []

        def interrupt(stage, done, total):
            reports.append(done)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sample(skewed(2), SHORT, progress=interrupt)
        assert reports == [2]  # one of each chain


class TestRefusals:
    def test_no_start(self):
        with pytest.raises(ConvergenceError, match="chain 0 found no start.*check the fit"):
            sample_posterior(lambda z: jnp.log(-jnp.exp(z[0])), [0.0], [[1.0]], SHORT, jax.random.key(0))

    def test_starts_are_redrawn_until_they_are_inside(self):
        problem = bounded(2, peak=0.0)
        run = sample(problem, NutsSettings(20, 30, 8))
        assert np.all(run.draws[..., 0] > 0.0)

    def test_float32(self):
        with jax.enable_x64(False), pytest.raises(InputError, match="float32.*jax_enable_x64"):
            sample(skewed(2), SHORT)
        with pytest.raises(InputError, match="float64 scalar"):
            sample_posterior(lambda z: z[0].astype(jnp.float32), [0.0], [[1.0]], SHORT, jax.random.key(0))
        with pytest.raises(InputError, match="float64 scalar"):
            sample_posterior(lambda z: z, [0.0], [[1.0]], SHORT, jax.random.key(0))

    @pytest.mark.parametrize("covariance", [np.ones((2, 2)), -np.eye(2), np.full((2, 2), np.nan), np.eye(3)])
    def test_covariance(self, covariance):
        with pytest.raises(InputError, match="covariance"):
            sample_posterior(skewed(2).log_density, np.zeros(2), covariance, SHORT, jax.random.key(0))

    @pytest.mark.parametrize(
        "setting",
        [{"num_warmup": 0}, {"num_samples": 1}, {"num_chains": 0}, {"target_accept_prob": 1.0}, {"init_spread": -1.0}],
    )
    def test_settings(self, setting):
        with pytest.raises(InputError, match=next(iter(setting))):
            NutsSettings(**setting)


class TestDiagnose:
    names = ("a", "b", "c")

    def draws(self, seed=0, chains=4, n=500):
        return np.random.default_rng(seed).standard_normal((chains, n, 3))

    def test_healthy_chains(self):
        report = diagnose(self.draws(), {}, self.names)
        assert report.converged
        np.testing.assert_allclose(report.ess_bulk, 2000, rtol=0.2)

    @pytest.mark.parametrize("n", [100, 400])
    def test_false_alarms_are_rare(self, n):
        failed = [not diagnose(self.draws(seed, n=n), {}, self.names, min_ess=100).converged for seed in range(100)]
        assert sum(failed) <= 5  # one is expected; six have a probability below 1e-3

    def test_one_chain_is_split(self):
        report = diagnose(self.draws(chains=1, n=2000), {}, self.names)
        assert report.converged
        assert np.all(report.rhat != 1.0)
        drifting = self.draws(chains=1, n=2000) + np.linspace(0.0, 3.0, 2000)[None, :, None]
        assert not diagnose(drifting, {}, self.names).converged

    def test_a_stuck_chain_fails(self):
        draws = self.draws()
        draws[2, :, 1] = 0.3
        report = diagnose(draws, {}, self.names)
        assert report.problems == ("b never moved in chain 2",)
        assert np.isnan(report.rhat[1])
        assert np.isnan(report.ess_bulk[1])
        assert np.all(np.isfinite(report.rhat[[0, 2]]))

    def test_all_chains_stuck_fail(self):
        report = diagnose(np.zeros((4, 100, 3)), {}, self.names)
        assert not report.converged
        assert np.all(np.isnan(report.rhat))

    def test_draws_that_are_not_finite_fail(self):
        draws = self.draws()
        draws[0, 7, 2] = np.nan
        assert diagnose(draws, {}, self.names).problems == ("1 draws of c are not finite",)

    def test_chains_in_different_modes_fail(self):
        problem = two_modes(3)
        draws = problem.draw(2000, 0).reshape(4, 500, 3)
        assert diagnose(draws, {}, problem.names).converged
        apart = np.stack([problem.laplace(500, seed, mode=seed % 2) for seed in range(4)])
        report = diagnose(apart, {}, problem.names)
        assert report.problems[0].startswith("the chains of z0 disagree: R-hat is")

    def test_slow_chains_fail(self):
        slow = np.cumsum(self.draws(), axis=1) * 0.05
        assert any("too few effective draws" in problem for problem in diagnose(slow, {}, self.names).problems)

    def test_statistics_of_the_sampler_are_judged(self):
        draws, rng = self.draws(), np.random.default_rng(1)
        energy = rng.standard_normal((4, 500))
        stats = {"energy": energy, "diverging": np.zeros((4, 500), bool), "lp": -energy}
        healthy = diagnose(draws, stats, self.names)
        assert healthy.converged
        np.testing.assert_allclose(healthy.ebfmi, 2.0, rtol=0.2)
        stats["diverging"][1, :30] = True
        assert "30 of 2000 transitions diverged" in diagnose(draws, stats, self.names).problems[0]
        stats["diverging"][:] = False
        stats["energy"] = np.cumsum(energy, axis=1)
        assert "chain 0 explores the energies too slowly" in diagnose(draws, stats, self.names).problems[0]
        stats["energy"] = np.zeros((4, 500))
        assert "E-BFMI is nan" in diagnose(draws, stats, self.names).problems[0]
        stats["energy"], stats["lp"] = energy, np.where(energy > 3.0, np.nan, -energy)
        assert "log density is not finite" in diagnose(draws, stats, self.names).problems[0]

    def test_shapes(self):
        for draws in (np.zeros((4, 100)), np.zeros((4, 100, 2)), np.zeros((4, 5, 3))):
            with pytest.raises(InputError, match="expected"):
                diagnose(draws, {}, self.names)


def test_a_budget_of_gradients_ends_a_run():
    settings = NutsSettings(num_warmup=20, num_samples=200, num_chains=2, max_gradients=100)
    with pytest.raises(ConvergenceError, match=r"gradients were needed for \d+ of 440 transitions.*100 are allowed"):
        sample_posterior(lambda z: -0.5 * jnp.sum(z**2), np.zeros(2), np.eye(2), settings, jax.random.key(0))
    enough = replace(settings, max_gradients=100_000)
    drawn = sample_posterior(lambda z: -0.5 * jnp.sum(z**2), np.zeros(2), np.eye(2), enough, jax.random.key(0))
    assert drawn.draws.shape == (2, 200, 2)
