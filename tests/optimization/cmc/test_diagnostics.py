"""The verdict on a consensus run: rarely wrong about healthy runs, never silent about sick ones."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from homodyne.certificate.chains import diagnose
from homodyne.errors import InputError
from homodyne.optimization.cmc.diagnostics import _kl_divergence_gaussian, validate_cmc_results
from homodyne.optimization.cmc.heterogeneity import cochran_q
from homodyne.optimization.cmc.shard_records import comparable, read_shards
from homodyne.optimization.cmc.types import ShardFailure, ShardResult

NAMES = ("D0", "alpha", "beta")
CHAINS, DRAWS = 4, 250


@dataclass
class Combined:
    samples: Any
    mean: Any = None
    cov: Any = None
    method: str = "weighted"


@dataclass
class Run:
    """Healthy shards as workers report them; ``shards`` may be edited before they are validated."""

    seed: int
    num_shards: int = 6
    memory: float = 0.3
    names: tuple[str, ...] = NAMES
    draws: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self):
        from scipy.signal import lfilter

        rng = np.random.default_rng(self.seed)
        dimension = len(self.names)
        base = (np.eye(dimension) + 0.6) * np.outer(*[np.resize([1e4, 1e-3, 1.0], dimension)] * 2)
        for _ in range(self.num_shards):
            factor = np.linalg.cholesky(base * np.exp(rng.uniform(-0.5, 0.5)))
            noise = rng.normal(size=(CHAINS, DRAWS, dimension)) * np.sqrt(1 - self.memory**2)
            noise[:, 0] /= np.sqrt(1 - self.memory**2)
            white = lfilter([1], [1, -self.memory], noise, axis=1)
            self.draws.append((rng.normal(size=dimension) + white) @ factor.T)

    def records(self):
        return [result(k, draws, self.names) for k, draws in enumerate(self.draws)]

    def validate(self, combined=None, **options):
        return validate_cmc_results(self.records(), combined, **options)


def result(number, draws, names=NAMES, **stats):
    stats = {"lp": np.zeros(draws.shape[:2]), "diverging": np.zeros(draws.shape[:2], dtype=bool), **stats}
    judged = diagnose(draws, stats, names)
    return ShardResult(
        number, draws, names, stats, 1000, judged.converged, judged.problems, judged.rhat, judged.ess_bulk,
        judged.ess_tail, judged.divergences, judged.ebfmi, 5000, 1, 1.5,
    )  # fmt: skip


def test_healthy_run():
    run = Run(0)
    valid, numbers = run.validate()
    assert valid, numbers["problems"]
    assert numbers["problems"] == []
    assert len(numbers["per_shard"]) == 6
    assert numbers["between"]["q"]["dof"] == 15
    assert numbers["per_shard"][2]["num_points"] == 1000
    assert numbers["per_shard"][2]["leave_one_out"]["p"] > 0
    text = json.dumps(numbers, allow_nan=False)
    assert json.loads(text) == numbers


@pytest.mark.slow
@pytest.mark.statistical
def test_false_alarms_of_the_verdict():
    """Autocorrelated chains, everything judged: R-hat, effective draws, tests between shards; 1 % + 1 % may fail."""
    number = 60
    alarms = [
        numbers["problems"] for k in range(number) for valid, numbers in [Run(100 + k, 4).validate()] if not valid
    ]
    assert len(alarms) <= 0.02 * number + 4 * np.sqrt(0.02 * number), alarms


@pytest.mark.slow
@pytest.mark.statistical
def test_q_of_real_chains_is_calibrated_by_effective_draws():
    """Slow chains: with the number of draws in place of the effective number, Q is too large."""
    memory, dimension = 0.9, 8
    effective = np.full(dimension, CHAINS * DRAWS * (1 - memory) / (1 + memory))
    good = {"rhat": effective, "ess_bulk": effective, "ess_tail": effective, "divergences": 0, "ebfmi": np.ones(4)}
    ratios, naive = [], []
    for seed in range(60):
        run = Run(seed, 8, memory, names=tuple(f"x{k}" for k in range(dimension)))
        _, shards = read_shards([{"samples": draws, **good} for draws in run.draws])
        moments, kept, _ = comparable(shards)
        assert len(kept) == 8
        test = cochran_q(moments)
        ratios.append(test.q / test.expected)
        number = float(CHAINS * DRAWS)
        test = cochran_q(replace(moments, ess=np.full((8, dimension), number), ess_spread=np.full(8, number)))
        naive.append(test.q / test.expected)
    error = np.std(ratios) / np.sqrt(len(ratios))
    assert abs(np.mean(ratios) - 1) < 3 * error
    assert np.mean(naive) - 1 > 3 * error


def test_shifted_shard_is_named():
    run = Run(1)
    run.draws[4][..., 1] += 8 * run.draws[4][..., 1].std()
    valid, numbers = run.validate()
    assert not valid
    assert numbers["between"]["outliers"] == [4]
    assert any("shard 4 disagrees with the others: alpha is off by" in text for text in numbers["problems"])
    assert numbers["between"]["parameters"][1]["p_holm"] < 0.01
    assert run.validate(strict=False)[0]  # named all the same
    assert run.validate(strict=False)[1]["problems"] == numbers["problems"]


def test_numbers_of_shards_are_used():
    """Shards are named by their number, not by their place in the list."""
    run = Run(2)
    run.draws[1][..., 0] -= 9 * run.draws[1][..., 0].std()
    records = run.records()[::-1]
    _, numbers = validate_cmc_results(records)
    assert numbers["between"]["outliers"] == [1]
    assert [entry["shard_id"] for entry in numbers["per_shard"]] == [5, 4, 3, 2, 1, 0]


def test_widths_too_small_everywhere():
    run = Run(3, 8)
    run.draws = [draws.mean(axis=(0, 1)) + (draws - draws.mean(axis=(0, 1))) / 30 for draws in run.draws]
    valid, numbers = run.validate()
    assert not valid
    assert "as a whole" in numbers["problems"][0]
    assert "times too narrow" in numbers["problems"][0]


def test_two_shards_disagree():
    run = Run(4, 2)
    run.draws[0] += 12 * run.draws[0].std(axis=(0, 1))
    _, numbers = run.validate()
    assert numbers["problems"][0].startswith("shards 0 and 1 disagree")
    assert numbers["between"]["outliers"] == [0, 1]


def test_duplicated_shard():
    names = tuple(f"x{k}" for k in range(6))
    run = Run(5, 8, names=names)
    other = Run(77, 1, names=names).draws[0]
    white = (other - other.mean(axis=(0, 1))) @ np.linalg.inv(np.linalg.cholesky(np.cov(other.reshape(-1, 6).T))).T
    source = run.draws[2].reshape(-1, 6)
    run.draws[6] = source.mean(axis=0) + white @ np.linalg.cholesky(np.cov(source.T)).T  # same data, other chains
    valid, numbers = run.validate()
    assert not valid
    assert numbers["between"]["identical"] == [[2, 6]]
    assert "shards 2 and 6 agree to within Monte Carlo error" in numbers["problems"][0]


def test_widths_too_large_is_a_warning():
    run = Run(6, 8)
    run.draws = [draws.mean(axis=(0, 1)) + (draws - draws.mean(axis=(0, 1))) * 3 for draws in run.draws]
    valid, numbers = run.validate()
    assert valid
    assert "agree better than their widths allow" in numbers["warnings"][0]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("fault", ["nan", "stuck", "density", "failed", "singular"])
def test_unusable_shard_fails_even_when_not_strict(fault, strict):
    run = Run(7)
    records: list[Any] = run.records()
    draws = run.draws[3]
    if fault == "nan":
        draws[1, 7, 2] = np.nan
    elif fault == "stuck":
        draws[2] = draws[2, 0]
    elif fault == "singular":
        draws[..., 2] = draws[..., 0] * 1e-4
    infinite = np.zeros(draws.shape[:2])
    infinite[0, :3] = -np.inf
    stats = {"lp": infinite} if fault == "density" else {}
    records[3] = ShardFailure(3, "out of memory", 3) if fault == "failed" else result(3, draws, **stats)
    valid, numbers = validate_cmc_results(records, strict=strict)
    assert not valid
    expected = {
        "nan": "shard 3: 1 draws of beta are not finite",
        "stuck": "shard 3: D0 never moved in chain 2",
        "density": "shard 3: the log density is not finite at 3 draws",
        "failed": "shard 3 failed: out of memory",
        "singular": "shard 3: the covariance of its draws is singular",
    }[fault]
    assert expected in numbers["problems"]
    assert numbers["shard_ids"] == [0, 1, 2, 4, 5]
    assert len(numbers["per_shard"]) == 6
    json.dumps(numbers, allow_nan=False)


def test_chains_that_disagree():
    run = Run(8)
    run.draws[5][0] += 1.5 * run.draws[5].std(axis=(0, 1))
    valid, numbers = run.validate()
    assert not valid
    (problem,) = [text for text in numbers["problems"] if "R-hat" in text]
    assert problem.startswith("shard 5: the chains of ")
    assert "likewise" in problem
    assert not numbers["per_shard"][5]["converged"]


def test_r_hat_counts_all_shards():
    """Of forty healthy shards some exceed the limit for one; the limit for all of them is not exceeded."""
    run = Run(9, 40)
    records = run.records()
    assert any(record.rhat.max() > 1.01 for record in records)
    valid, numbers = validate_cmc_results(records)
    assert valid, numbers["problems"]


def test_divergences_energies_and_effective_draws():
    run = Run(10)
    records = run.records()
    diverging = np.zeros((CHAINS, DRAWS), dtype=bool)
    diverging[0, :50] = True
    energy = np.cumsum(np.random.default_rng(0).normal(size=(CHAINS, DRAWS)), axis=1)
    records[1] = result(1, run.draws[1], diverging=diverging, energy=energy)
    slow = Run(11, 1, memory=0.97).draws[0]
    records[2] = result(2, slow - slow.mean(axis=(0, 1)) + run.draws[2].mean(axis=(0, 1)))
    valid, numbers = validate_cmc_results(records)
    text = "\n".join(numbers["problems"])
    assert not valid
    assert "shard 1: 50 of 1000 transitions diverged" in text
    assert "shard 1: chain 0 explores the energies too slowly" in text
    assert "shard 2: " in text
    assert "too few effective draws" in text


def test_draws_alone_are_enough():
    """A mapping without diagnostics is diagnosed here; chains (draw, D) count as one chain."""
    draws = Run(12).draws
    valid, numbers = validate_cmc_results([{"samples": each} for each in draws])
    assert valid, numbers["problems"]
    assert numbers["names"] == ["x0", "x1", "x2"]
    assert numbers["shard_ids"] == [0, 1, 2, 3, 4, 5]
    flat = [{"samples": np.concatenate(list(each)), "names": NAMES} for each in draws]
    stuck = validate_cmc_results([*flat, {"samples": np.zeros((500, 3)), "names": NAMES}])[1]
    assert "shard 6: D0 never moved in chain 0" in stuck["problems"]


def test_one_shard_has_nothing_to_be_compared_with():
    valid, numbers = Run(13, 1).validate()
    assert valid
    assert numbers["between"] is None


def test_combined():
    run = Run(14)
    _, numbers = run.validate()
    product = numbers["between"]["product"]
    rng = np.random.default_rng(0)
    samples = product["mean"] + rng.normal(size=(4000, 3)) * product["sd"]
    valid, numbers = run.validate(Combined(samples))
    assert valid
    np.testing.assert_allclose(numbers["combined"]["shift"], 0, atol=4 / np.sqrt(4000))
    np.testing.assert_allclose(numbers["combined"]["width_ratio"], 1, atol=0.06)
    ess = np.mean([entry["ess_bulk"] for entry in numbers["per_shard"]])
    np.testing.assert_allclose(numbers["combined"]["mcse_in_sd"], 1 / np.sqrt(ess), rtol=0.15)
    assert any("pooled" in text for text in run.validate(Combined(samples, method="average"))[1]["warnings"])
    moved = run.validate({"samples": samples + 3 * np.array(product["sd"]), "method": "weighted"})[1]
    assert "away from the normal product" in moved["warnings"][-1]
    samples[5, 1] = np.inf
    valid, numbers = run.validate(Combined(samples, mean=np.zeros(3), cov=np.eye(3)), strict=False)
    assert not valid
    assert "draws not finite (1 numbers)" in numbers["problems"][0]


def test_wrong_input():
    records = Run(15).records()
    with pytest.raises(InputError, match="no shard results"):
        validate_cmc_results([])
    with pytest.raises(InputError, match="two shards have the number 2"):
        validate_cmc_results([*records, records[2]])
    with pytest.raises(InputError, match="samples of shard 0 have shape"):
        validate_cmc_results([{"samples": np.zeros(5)}])
    with pytest.raises(InputError, match="shard 9 has the parameters a, b, c"):
        validate_cmc_results([*records, result(9, records[0].samples, ("a", "b", "c"))])
    with pytest.raises(InputError, match="mean of the combined posterior has shape"):
        validate_cmc_results(records, Combined(np.zeros((50, 2))))
    with pytest.raises(InputError, match="neither samples nor mean"):
        validate_cmc_results(records, {"method": "weighted"})
    assert _kl_divergence_gaussian(np.zeros(2), np.eye(2), np.zeros(2), np.eye(2)) == 0
