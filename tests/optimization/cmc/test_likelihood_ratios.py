"""False alarms of the tests between shards at their nominal rate, where moments do not work too; and what they see."""

import numpy as np
import pytest
from scipy.special import xlogy

from homodyne.optimization.cmc.likelihood_ratios import FALSE_ALARM, contradictions, unusual

RUNS = 4000


def normal_shards(rng, count, dimension, shift=0.0):
    """Log likelihoods, in closed form, of shards that measure one mean with unit variance; shard 1 may be off."""
    x = rng.standard_normal((count, dimension))
    x[1] += shift
    return np.zeros(count), -0.5 * np.square(x - x.mean(axis=0)).sum(axis=1)


def rare_shards(rng, count, trials, rate):
    """Log likelihoods of shards with few successes, at the share of successes of each and of all."""
    y = rng.binomial(trials, rate, count)
    p = y.mean() / trials
    own = xlogy(y, y / trials) + xlogy(trials - y, 1.0 - y / trials)
    return own, xlogy(y, p) + xlogy(trials - y, 1.0 - p)


def alarms(make, dimension=1, stretch=1.0, runs=RUNS):
    """Share of runs with a named shard, and of those that disagree as a whole."""
    rng, named, whole = np.random.default_rng(0), 0, 0
    for _ in range(runs):
        own, common = make(rng)
        said = contradictions(own, common + (1.0 - stretch) * (own - common), dimension, list(range(len(own))))
        named += any("in particular" not in text for text in said)
        whole += any("in particular" in text for text in said)
    return named / runs, whole / runs


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize(("count", "dimension"), [(2, 1), (4, 2), (16, 7), (100, 1)])
def test_healthy_shards_are_named_at_the_nominal_rate(count, dimension):
    rates = alarms(lambda rng: normal_shards(rng, count, dimension), dimension)
    error = np.sqrt(FALSE_ALARM / RUNS)
    assert max(rates) < FALSE_ALARM + 4.0 * error
    assert sum(rates) > FALSE_ALARM - 4.0 * error / 2.0
    planted = alarms(lambda rng: normal_shards(rng, count, dimension), dimension, stretch=2.0)
    assert sum(planted) > 5.0 * FALSE_ALARM, "ratios that are twice too large"


@pytest.mark.statistical
@pytest.mark.parametrize("trials", [10, 100, 1000])
def test_rare_successes_are_no_contradiction(trials):
    rates = alarms(lambda rng: rare_shards(rng, 100, trials, 1e-3), runs=1000)
    assert sum(rates) < FALSE_ALARM + 4.0 * np.sqrt(FALSE_ALARM / 1000)


@pytest.mark.parametrize("count", [3, 4, 16, 100])
def test_the_bad_shard_is_named_and_no_other(count):
    rng = np.random.default_rng(1)
    for shift in (8.0, 30.0, 1000.0):
        said = contradictions(*normal_shards(rng, count, 2, shift), 2, [k + 10 for k in range(count)])
        assert len(said) == 1
        assert said[0].startswith("shard 11 disagrees")


def test_of_two_shards_both_are_named():
    said = contradictions(*normal_shards(np.random.default_rng(1), 2, 1, 10.0), 1, [0, 1])
    assert [text.split(" disagrees")[0] for text in sorted(said)] == ["shard 0", "shard 1"]


def test_shards_that_scatter_too_much_disagree_as_a_whole():
    own, common = normal_shards(np.random.default_rng(2), 200, 2)
    assert contradictions(own, common, 2, list(range(200))) == []
    said = contradictions(own, 1.4 * common, 2, list(range(200)))
    assert len(said) == 1
    assert "as a whole" in said[0]


def test_one_shard_and_shards_without_draws_say_nothing():
    assert contradictions(np.zeros(1), -np.ones(1), 1, [0]) == []
    assert contradictions(np.array([0.0, np.nan, 0.0]), np.array([-1.0, -2.0, -1.0]), 1, [0, 1, 2]) == []


def test_what_is_usual_is_told_by_shards_dealt_anew():
    """Heavy tails: clusters that few shards see both of are usual, a shard of other data is not."""
    rng, points = np.random.default_rng(3), np.linspace(-2.0, 8.0, 60)
    y = np.concatenate([0.3 * rng.normal(size=18), 6.0 + 0.3 * rng.normal(size=14)])

    def heights(parts):
        return np.array([-np.log1p((part[:, None] - points) ** 2).sum(axis=0) for part in parts])

    common = int(np.argmax(heights([y])[0]))

    def gains(values):
        table = heights(np.split(values, 4))
        return table.max(axis=1) - table[:, common]

    anew = [gains(rng.permutation(y)) for _ in range(39)]
    usual = [unusual(gains(rng.permutation(y)), anew) for _ in range(20)]
    assert np.mean(usual) < 0.3
    assert unusual(gains(np.sort(y)), anew)  # planted: each cluster in shards of its own
