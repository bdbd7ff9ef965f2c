"""Further modes: found where there are some, none invented where there are not."""

import jax
import numpy as np
import pytest

from homodyne.certificate.other_modes import other_modes
from homodyne.certificate.polish import Polished, polish
from homodyne.testing.densities import banana, bounded, gaussian, random_covariance, skewed, two_modes


def known_mode(problem):
    evaluate = jax.jit(jax.vmap(problem.log_density))
    center, covariance = problem.modes[0]
    found = polish(lambda x: np.asarray(evaluate(x)), center, covariance)
    return (lambda x: np.asarray(evaluate(x))), found if found.arrived else Polished(center, covariance, (), 0.0, False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_second_mode_that_shards_have_seen_is_found(seed):
    rng = np.random.default_rng(seed)
    ratio = 10.0 ** rng.uniform(-1.0, 0.7)
    d, separation = int(rng.integers(1, 4)), float(rng.uniform(5.0, 50.0)) * max(1.0, ratio)
    problem = two_modes(d, separation, weight=float(rng.uniform(0.1, 0.9)), ratio=ratio)
    evaluate, known = known_mode(problem)
    draws = problem.modes[0][0] + 3.0 * rng.standard_normal((63, d))  # shards are wider than all data
    seen = problem.modes[1][0] + 2.0 * ratio * rng.standard_normal((1, d))
    found = other_modes(evaluate, known, np.concatenate([draws, seen]))
    assert len(found) == 1
    assert np.linalg.norm(found[0].mean - problem.modes[1][0]) < 0.1 * ratio
    np.testing.assert_allclose(found[0].covariance, ratio**2 * np.eye(d), atol=0.1 * ratio**2)
    assert other_modes(evaluate, known, np.tile(known.mean, (64, 1))) == [], "nobody has seen it"


UNIMODAL = {
    "gaussian": lambda rng: gaussian(random_covariance(3, int(rng.integers(1000)))),
    "banana": lambda rng: banana(2, bend=float(rng.uniform(0.1, 1.0))),
    "skewed": lambda rng: skewed(3, shape=float(rng.uniform(1.0, 10.0))),
    "bounded": lambda rng: bounded(2, peak=float(rng.uniform(0.5, 3.0))),
}


@pytest.mark.parametrize("name", list(UNIMODAL))
def test_no_mode_is_invented(name):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        problem = UNIMODAL[name](rng)
        evaluate, known = known_mode(problem)
        draws = problem.mean + 4.0 * (problem.draw(64, seed) - problem.mean)
        assert other_modes(evaluate, known, draws) == []
