"""A thinned validation: is a right posterior passed, and is a wrong one seen?"""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.validation import alarms, coverage, engine
from benchmarks.validation.bands import band, grid, uniform_p
from benchmarks.validation.calibration import STATIC, with_noise
from benchmarks.validation.families import FAMILIES, LEVELS, Case
from benchmarks.validation.fits import LIKELIHOOD, Answer, from_weights, pilot_at, ranks, with_likelihood
from benchmarks.validation.records import Unit, append, read
from benchmarks.validation.report import misses, ranks_by_name, smallest_p, write_report
from benchmarks.validation.studies import STUDIES
from homodyne.testing.conjugate import gaussian_mean

SOME = [
    ("outliers", 0),
    ("second cluster", 1),
    ("Cauchy", 1),
    ("flat priors", 0),
    ("symmetric mixture", 0),
    ("strong prior", 1),
    ("one observation per shard", 1),
    ("squared", 1),
    ("logistic", 1),
    ("separated", 3),
    ("no counts", 0),
    ("waiting time", 2),
    ("schools", 3),
    ("schools, a density", 1),
]
"""Families and seeds of the study of the generic engine that run here, 1 to 64 shards."""


class TestBands:
    @pytest.mark.parametrize("count", [20, 150])
    def test_uniform_values_raise_no_more_alarms_than_promised(self, count):
        rng = np.random.default_rng(count)
        p = np.array([uniform_p(rng.random(count)) for _ in range(400)])
        for level in (0.05, 0.5):
            assert abs(np.mean(p <= level) - level) < 3.9 * np.sqrt(level * (1 - level) / 400)

    def test_whole_functions_stay_in_the_band(self):
        low, high = band(100)
        functions = np.mean(np.random.default_rng(0).random((2000, 100, 1)) <= grid(100), axis=1)
        inside = np.mean(np.all((low <= functions) & (functions <= high), axis=1))
        assert abs(inside - 0.95) < 0.02

    def test_draws_that_are_too_narrow_or_shifted_are_seen(self):
        z = norm.ppf((np.arange(150) + 0.5) / 150)
        assert uniform_p(norm.cdf(z)) > 0.05
        assert uniform_p(norm.cdf(z / 0.7)) < 0.01
        assert uniform_p(norm.cdf(z + 0.4)) < 0.01


def test_ranks_are_uniform_with_and_without_ties():
    rng = np.random.default_rng(2)
    draws, truths = rng.standard_normal((500, 99)), rng.standard_normal(500)
    found = [
        ranks(Answer({"x": own}, "", 99.0), {"x": truth}, rng)["x"][0] for own, truth in zip(draws, truths, strict=True)
    ]
    assert uniform_p(np.array(found)) > 0.01
    tied = [ranks(Answer({"x": np.zeros(50)}, "", 1.0), {"x": 0.0}, rng)["x"][0] for _ in range(500)]
    assert uniform_p(np.array(tied)) > 0.01


def _conjugate(power=1.0, width=1.0, sets=300):
    """Ranks in the exact posterior of a normal mean under one observation, or in one that is wrong on purpose."""
    problem = gaussian_mean(n=1, scales=(1.0, 1.0, 1.0))
    factor = np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(range(3), range(3))))
    likelihood = jax.jit(jax.vmap(problem.model.log_likelihood, in_axes=(0, None, None)))
    records = []
    for seed in range(sets):
        rng = np.random.default_rng([seed, 1])
        truth = 1.0 + 5.0 * rng.standard_normal(3)
        data = {"y": (truth + factor @ rng.standard_normal(3))[None]}
        exact = problem.exact(data, power)
        z = exact.mean + width * (exact.draw(99, seed) - exact.mean)
        values = np.asarray(likelihood(np.concatenate([z, truth[None]]), data, 1.0))
        told = ranks(Answer({"mu": z, LIKELIHOOD: values[:-1]}, "", 99.0), {"mu": truth, LIKELIHOOD: values[-1]}, rng)
        records.append({"ranks": told})
    return smallest_p(ranks_by_name(records))[0]


class TestCalibration:
    def test_exact_posterior_is_passed(self):
        assert _conjugate() > 0.05

    def test_widths_a_fifth_too_small_are_seen(self):
        assert _conjugate(width=0.8) < 0.01

    def test_whole_prior_in_each_of_eight_shards_is_seen(self):
        assert _conjugate(power=8.0) < 0.01

    def test_posterior_of_maps_is_passed_and_noise_taken_for_half_is_seen(self):
        told = {1.0: [], 0.5: []}
        for seed in range(16):
            data, truth, start = STATIC.measure(seed)
            pilot = pilot_at(STATIC, data, start, seed)
            for factor, records in told.items():
                wrong = with_noise(pilot, factor * STATIC.sigma)
                found = ranks(from_weights(wrong, seed), with_likelihood(truth, wrong), np.random.default_rng(seed))
                records.append({"ranks": found})
        p = {factor: smallest_p(ranks_by_name(records))[0] for factor, records in told.items()}
        assert p[1.0] > 0.01
        assert p[0.5] < 0.01


def test_coverage_on_speckle():
    records = {"static, long, 1": [coverage.one("static, long, 1", seed) for seed in range(16)]}
    assert [text for text in misses(records, "calibrated") if "nominal 90 %" in text] == []
    assert sum("nominal 90 %" in text for text in misses(records, "independent")) >= 3


def test_certificate_passes_exact_draws_and_no_others():
    for name in ("normal, 3 dimensions", "skewed"):
        found = alarms.certificate(name, 0)
        assert found.pop("exact draws") == "CERTIFIED"
        assert "CERTIFIED" not in found.values()


def test_shards_that_agree_and_one_that_does_not():
    found = [alarms.agreement("8 shards, 3 parameters", seed) for seed in range(100)]
    assert uniform_p(np.array([one["p"] for one in found])) > 0.001
    assert sum(one["named"] > 0 for one in found) <= 6
    assert sum(one["sick named"] for one in found) >= 80


class TestGenericEngine:
    def test_study_has_120_models_and_a_tenth_of_them_runs_here(self):
        study = STUDIES["generic engine"]
        models = [(family, seed) for family in study.cases for seed in range(study.sets_of(family, study.sets))]
        assert len(models) >= 120
        assert set(SOME) <= set(models)
        assert len(SOME) >= 12
        assert {FAMILIES[family](seed).num_shards for family, seed in SOME} >= {1, 4, 16, 64}

    @pytest.mark.parametrize(("family", "seed"), SOME)
    def test_some_of_the_models(self, family, seed):
        record = engine.one(family, seed)
        assert engine.complaints([record | {"mean": [0.0], "low": [0.0], "high": [0.0], "width": [0.0]}]) == []

    def test_spoilt_draws_are_seen(self):
        """Exact draws of a normal distribution, and what is wrong with others."""
        exact = np.array([[2.0, 3.0, *(2.0 + 3.0 * norm.ppf(LEVELS))]])
        case = Case(lambda data: None, {}, 1, {"x": exact})
        draws = 2.0 + 3.0 * np.random.default_rng(0).standard_normal((4, 1000))
        draws += 2.0 - draws.mean()
        certificate = SimpleNamespace(weighted=False, reason="")

        def judged(x, verdict="CERTIFIED"):
            return engine.judge(case, SimpleNamespace(samples={"x": x}, verdict=verdict, certificate=certificate))

        right = judged(draws)
        assert right["fault"] == ""
        assert engine.complaints([right]) == []
        assert "x: mean +0.4" in judged(draws + 1.2)["fault"]
        assert "width" in judged(2.0 + 1.3 * (draws - 2.0))["fault"]
        assert judged(draws + 1.2, "REFUSED")["fault"] == ""
        assert engine.complaints(20 * [right] + [judged(draws, "REFUSED")]) == ["1 of 21 are refused"]
        assert engine.complaints([judged(draws + 0.2)]) == [f"mean is off by {judged(draws + 0.2)['mean'][0]:+.3f}"]
        assert engine.complaints([{"error": "no", "seconds": 1.0}]) == ["no"]

    @pytest.mark.parametrize("family", FAMILIES)
    def test_exact_answers_are_finite_and_in_order(self, family):
        for exact in FAMILIES[family](0).exact.values():
            assert np.isfinite(exact).all()
            assert (np.diff(exact[:, 2:]) > 0.0).all()


def test_a_run_that_was_killed_goes_on(tmp_path):
    path, first, second = tmp_path / "records.jsonl", Unit("coverage", "a", 0), Unit("coverage", "a", 1)
    append(path, [(first, {"x": 1})])
    with path.open("a") as file:
        file.write('[["coverage", "a", 1], {"x"')
    assert read(path) == {first: {"x": 1}}
    append(path, [(second, {"x": 2})])
    assert read(path) == {first: {"x": 1}, second: {"x": 2}}


def _made_up(case, seed, names):
    def told(scale):
        rng = np.random.default_rng(seed)
        found = {name: [float(0.5 + scale * (rng.random() - 0.5))] for name in names}
        return {"ranks": found, "sd": {name: [1.0 / scale] for name in names}, "ess": 100.0}

    return Unit("coverage", case, seed), {"independent": told(1.0), "calibrated": told(0.3)}


def test_page_holds_what_was_found(tmp_path):
    names = ("D0", "alpha", "D_offset", "contrast", "offset", LIKELIHOOD)
    engine_run = {"verdict": "CERTIFIED", "seconds": 3.0, "mean": [0.01], "low": [0.0], "high": [0.0], "width": [0.0]}
    records = dict(_made_up("static, short, 0.1", seed, names) for seed in range(200))
    for name in alarms.PROBLEMS:
        records[Unit("certificate", name, 0)] = dict.fromkeys(alarms.DEFECTS, "CERTIFIED")
    records[Unit("generic engine", "banana", 0)] = engine_run
    records[Unit("generic engine", "banana", 1)] = {"error": "banana, seed 1: no", "seconds": 1.0}
    path = tmp_path / "validation.md"
    write_report(records, path, "python -m benchmarks.validation", "0a1b2c3")
    text = path.read_text()
    assert "| short, 0.1 | calibrated | 200 of 200 | 3.3 to 3.3 | **100 / 100** |" in text
    assert "| skewed | exact draws | 1 CERTIFIED |" in text
    assert "| all | 2 | 1 | 1 CERTIFIED, 1 error | +0.010 | +0.000 | +0.000 | +0.000 | 3, 3 |" in text
    assert "- banana, seed 1: no" in text
    assert (tmp_path / "images" / "validation-coverage.png").read_bytes().startswith(b"\x89PNG")
    assert "laminar" not in text
    write_report(dict(_made_up("static, short, 0.1", seed, names) for seed in range(3)), path, "again", "4d5e6f7")
    again = path.read_text()
    assert "| short, 0.1 | calibrated | 3 of 3 |" in again
    assert again.count("| skewed | exact draws | 1 CERTIFIED |") == 1  # what has no records stays
    assert again.count("Written by") == 3
