"""The tests between shards have the distributions they claim, name the right shard, and see broken input."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2, kstest, multivariate_normal

from homodyne.errors import InputError
from homodyne.optimization.cmc.divergence import (
    _kl_divergence_gaussian,
    kl_expectation,
    kl_threshold,
    symmetric_kl,
)
from homodyne.optimization.cmc.heterogeneity import (
    ShardMoments,
    cochran_q,
    compare_shards,
    find_identical,
    find_outliers,
    holm,
    leave_one_out,
)

UNIFORM = 1e-3  # probability that a uniform sample fails


def moments(rng, count, dimension, draws, ess=None, sizes=0.7, scales=None):
    """Exact moments of healthy shards: normal means, Wishart covariances, shards of unequal width."""
    ess = draws if ess is None else ess
    scales = np.ones(dimension) if scales is None else scales
    base = (np.eye(dimension) + 0.8) * np.outer(scales, scales)
    widths = np.exp(rng.uniform(-sizes, sizes, size=count))
    factors = np.linalg.cholesky(base) * np.sqrt(widths)[:, None, None]
    lower = np.zeros((count, dimension, dimension))
    rows, columns = np.tril_indices(dimension, -1)
    lower[:, rows, columns] = rng.normal(size=(count, len(rows)))
    diagonal = np.arange(dimension)
    lower[:, diagonal, diagonal] = np.sqrt(rng.chisquare(draws - 1 - diagonal, size=(count, dimension)))
    half = factors @ lower
    noise = rng.normal(size=(count, dimension)) * np.sqrt(1 + 1 / ess)
    return ShardMoments(
        np.einsum("mij,mj->mi", factors, noise),
        half @ half.transpose(0, 2, 1) / (draws - 1),
        np.full((count, dimension), float(ess)),
        np.full(count, float(draws)),
    )


def replicate(number, *args, seed=0, **options):
    rng = np.random.default_rng(seed)
    return [moments(rng, *args, **options) for _ in range(number)]


def uniform(runs, planted=lambda run: run):
    return kstest([cochran_q(planted(run)).p for run in runs], "uniform").pvalue


@pytest.mark.statistical
@pytest.mark.parametrize(("count", "dimension", "draws"), [(4, 3, 200), (16, 3, 1000), (16, 7, 200), (4, 20, 200)])
def test_p_values_of_q_are_uniform(count, dimension, draws):
    runs = replicate(400, count, dimension, draws)
    assert uniform(runs) > UNIFORM
    ratio = [cochran_q(run).q / cochran_q(run).expected for run in runs]
    assert abs(np.mean(ratio) - 1) < 4 * np.std(ratio) / 20


@pytest.mark.statistical
def test_uniformity_sees_planted_bugs():
    """The same check fails without Monte Carlo error, and with precisions taken for exact."""
    runs = replicate(150, 30, 7, 200, ess=15)
    assert uniform(runs) > UNIFORM
    assert uniform(runs, lambda run: replace(run, ess=np.full_like(run.ess, 1e9))) < UNIFORM
    assert uniform(runs, lambda run: replace(run, ess_spread=np.full_like(run.ess_spread, 1e9))) < UNIFORM


def sd_as_variance(run):
    sd = np.sqrt(np.diagonal(run.covariances, axis1=1, axis2=2))
    return replace(run, covariances=run.covariances / np.sqrt(sd[:, :, None] * sd[:, None, :]))


@pytest.mark.statistical
def test_uniformity_sees_sd_for_variance_with_units():
    runs = replicate(60, 8, 3, 400, scales=np.array([1.3, 1.3, 1.3]))
    assert uniform(runs) > UNIFORM
    assert uniform(runs, sd_as_variance) < UNIFORM


def test_known_covariances_give_cochran():
    """With endless draws Q is the textbook sum, and chi-square."""
    run = moments(np.random.default_rng(1), 6, 3, 400)
    run = replace(run, ess=np.full((6, 3), 1e12), ess_spread=np.full(6, 1e12))
    precisions = np.linalg.inv(run.covariances)
    mean = np.linalg.solve(precisions.sum(0), np.einsum("mij,mj->i", precisions, run.means))
    q = sum(float(delta @ matrix @ delta) for delta, matrix in zip(run.means - mean, precisions, strict=True))
    test = cochran_q(run)
    assert test.q == pytest.approx(q, rel=1e-9)
    assert test.expected == pytest.approx(15)
    assert test.p == pytest.approx(chi2.sf(q, 15), rel=1e-5)
    assert test.p + test.p_low == pytest.approx(1)
    everything = compare_shards(run)
    np.testing.assert_allclose(everything.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(everything.covariance, np.linalg.inv(precisions.sum(0)), rtol=1e-9)


def test_units_do_not_matter():
    run = moments(np.random.default_rng(2), 5, 4, 300)
    scale = np.array([1e4, 1e-8, 1.0, 3e6])
    other = replace(run, means=run.means * scale + 1e3 * scale, covariances=run.covariances * np.outer(scale, scale))
    first, second = compare_shards(run), compare_shards(other)
    assert second.overall.q == pytest.approx(first.overall.q, rel=1e-8)
    np.testing.assert_allclose(second.leave_one_out.score, first.leave_one_out.score, rtol=1e-6)
    np.testing.assert_allclose(second.divergence, first.divergence, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(second.covariance, first.covariance * np.outer(scale, scale), rtol=1e-8)


@pytest.mark.statistical
@pytest.mark.parametrize(("count", "dimension"), [(2, 3), (16, 7)])
def test_leave_one_out_is_calibrated(count, dimension):
    """Distances are Hotelling's; the p-value of one given shard, from two looks at it, is never too small."""
    runs = replicate(300, count, dimension, 200, seed=3)
    p = np.array([leave_one_out(run).p[0] for run in runs])
    for level in (0.05, 0.2, 0.4):
        assert np.mean(p < level) < level + 4 * np.sqrt(level / len(runs))
    single = [first_parameter(run).p[0] for run in runs]
    assert kstest(single, "uniform").pvalue > UNIFORM


def first_parameter(run):
    return leave_one_out(run.marginal(0))


@pytest.mark.statistical
@pytest.mark.parametrize(("count", "dimension"), [(3, 3), (8, 3), (50, 7)])
def test_shifted_shard_is_named(count, dimension):
    """Eight of its standard deviations away in one parameter; five are found as often as its own scatter allows."""
    runs = replicate(40, count, dimension, 400, seed=4, sizes=0.3)
    found = {5.0: 0, 8.0: 0}
    for shift in found:
        for k, run in enumerate(runs):
            means = run.means.copy()
            bad = k % count
            means[bad, k % dimension] = shift * np.sqrt(run.covariances[bad, k % dimension, k % dimension])
            found[shift] += find_outliers(replace(run, means=means)) == (bad,)
    assert found[8.0] >= 36
    assert found[5.0] >= (12 if count == 3 else 30)


def test_bad_shard_does_not_make_others_look_bad():
    run = moments(np.random.default_rng(5), 5, 3, 400)
    means = run.means.copy()
    means[2] += 300 * np.sqrt(np.diag(run.covariances[2]))
    planted = replace(run, means=means)
    assert (leave_one_out(planted).p < 1e-6).all()  # everybody disagrees with a product that shard 2 has moved
    assert find_outliers(planted) == (2,)


def test_scattered_shards_have_no_scapegoat():
    run = moments(np.random.default_rng(6), 8, 3, 400)
    scattered = replace(run, covariances=run.covariances / 1e4)
    assert cochran_q(scattered).p < 1e-12
    assert find_outliers(scattered) == ()
    pair = scattered.subset([0, 1])
    assert find_outliers(pair) == (0, 1)


@pytest.mark.slow
@pytest.mark.statistical
def test_false_alarms_are_as_rare_as_asked():
    runs = replicate(300, 8, 3, 300, seed=7)
    alarms = sum(find_outliers(run, 0.05) != () for run in runs)
    assert alarms < 15 + 4 * np.sqrt(15)
    assert sum(find_identical(run, 0.05) != () for run in runs) < 15 + 4 * np.sqrt(15)
    holms = sum(compare_shards(run).p_parameters.min() < 0.05 for run in runs[:150])
    assert holms < 7.5 + 4 * np.sqrt(7.5)


def test_shard_that_does_not_identify_a_parameter_spoils_nothing():
    """Its variance along one direction is 1e12 times that of the others, and its mean is anywhere there."""
    rng = np.random.default_rng(8)
    direction = np.array([1.0, -1.0, 0.5])
    runs = []
    for run in replicate(200, 6, 3, 400, seed=8):
        covariances, means = run.covariances.copy(), run.means.copy()
        covariances[3] += 1e12 * np.outer(direction, direction)
        means[3] += 1e6 * rng.normal() * direction
        runs.append(replace(run, means=means, covariances=covariances))
    assert uniform(runs) > UNIFORM
    means = runs[0].means.copy()
    means[1] += 8 * np.sqrt(np.diag(runs[0].covariances[1]))
    assert find_outliers(replace(runs[0], means=means)) == (1,)


@pytest.mark.statistical
@pytest.mark.parametrize("count", [2, 4, 16])
def test_identical_shards_are_named(count):
    hits = 0
    runs = replicate(40, count, 7, 500, seed=9, sizes=0.2)
    rng = np.random.default_rng(9)
    for run in runs:
        means = run.means.copy()
        error = np.linalg.cholesky(run.covariances[0] / 250)
        means[-1] = means[0] + error @ rng.normal(size=7)
        covariances = run.covariances.copy()
        covariances[-1] = run.covariances[0]
        hits += find_identical(replace(run, means=means, covariances=covariances)) == ((0, count - 1),)
        assert find_identical(run) == ()
    assert hits >= 38


def test_prior_that_dominates_is_not_a_copy():
    """Two of five directions where no shard learns anything: all means are the same there."""
    alarms = 0
    for run in replicate(100, 12, 5, 500, seed=10, sizes=0.0):
        means = run.means.copy()
        factor = np.linalg.cholesky(np.eye(5) + 0.8)
        white = np.linalg.solve(factor, means.T)
        white[:2] *= 0.03
        alarms += find_identical(replace(run, means=(factor @ white).T), 0.01) != ()
    assert alarms <= 4


def test_all_shards_identical():
    run = moments(np.random.default_rng(11), 4, 5, 500, sizes=0.0)
    run = replace(run, means=run.means / np.sqrt(500), covariances=np.broadcast_to(run.covariances[0], (4, 5, 5)))
    assert len(find_identical(run)) == 6
    assert cochran_q(run).p_low < 1e-10


def test_divergence_is_exact():
    """Against the integral of p log(p / q) over draws of p, and against closed forms."""
    rng = np.random.default_rng(12)
    cov_p, cov_q = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    mu_p, mu_q = np.array([0.3, -1.0]), np.array([-0.5, 1.0])
    value = _kl_divergence_gaussian(mu_p, cov_p, mu_q, cov_q)
    draws = rng.multivariate_normal(mu_p, cov_p, 100_000)
    log_ratio = multivariate_normal(mu_p, cov_p).logpdf(draws) - multivariate_normal(mu_q, cov_q).logpdf(draws)
    assert abs(value - log_ratio.mean()) < 4 * log_ratio.std() / np.sqrt(draws.shape[0])
    assert _kl_divergence_gaussian(mu_p, cov_p, mu_p, cov_p) == pytest.approx(0, abs=1e-14)
    one = _kl_divergence_gaussian(np.zeros(1), np.eye(1), np.ones(1), 4 * np.eye(1))
    assert one == pytest.approx(0.5 * (0.25 + 0.25 - 1 + np.log(4)))
    units = np.diag([1e-8, 1e5])  # no absolute jitter
    scaled = _kl_divergence_gaussian(units @ mu_p, units @ cov_p @ units, units @ mu_q, units @ cov_q @ units)
    assert scaled == pytest.approx(value, rel=1e-10)
    with pytest.raises(InputError, match="Sigma_p is not positive definite"):
        _kl_divergence_gaussian(mu_p, np.ones((2, 2)), mu_q, cov_q)


def test_matrix_of_divergences():
    run = moments(np.random.default_rng(13), 4, 3, 200)
    matrix = symmetric_kl(run.means, run.covariances)
    for i in range(4):
        for j in range(4):
            there, back = (
                _kl_divergence_gaussian(run.means[a], run.covariances[a], run.means[b], run.covariances[b])
                for a, b in ((i, j), (j, i))
            )
            assert matrix[i, j] == pytest.approx(0.5 * (there + back), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("count", "dimension", "draws"), [(4, 3, 200), (16, 7, 500), (8, 20, 200)])
def test_expectation_and_limit_of_divergences(count, dimension, draws):
    runs = replicate(250, count, dimension, draws, seed=14, sizes=0.0)
    pairs = np.triu_indices(count, 1)
    values = np.array([symmetric_kl(run.means, run.covariances)[pairs] for run in runs])
    each = values.mean(axis=1)
    assert abs(each.mean() - kl_expectation(dimension, draws)) < 4 * each.std() / np.sqrt(len(runs))
    alarms = np.mean(values.max(axis=1) > kl_threshold(dimension, count, draws, 0.1))
    assert 0.02 < alarms < 0.1 + 4 * np.sqrt(0.09 / len(runs))
    fixed = np.mean(values.max(axis=1) > 5.0)  # the fixed limit "shards diverged" condemns every healthy run
    assert fixed > 0.5


def test_holm():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.5])), [0.04, 0.09, 0.09, 0.5])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1.0, 1.0])


def test_wrong_input():
    run = moments(np.random.default_rng(15), 3, 2, 100)
    singular = run.covariances.copy()
    singular[2] = 1.0
    with pytest.raises(InputError, match="covariance of shard 2 is not positive definite"):
        compare_shards(replace(run, covariances=singular))
    with pytest.raises(InputError, match="4 effective draws"):
        kl_threshold(3, 4, 4.0)
