"""Maps that take polynomials off."""

import jax
import numpy as np
import pytest

from homodyne.certificate.bend import Bend

jax.config.update("jax_enable_x64", True)


def bent_points(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3))
    x[:, 1] = 0.3 * x[:, 1] + x[:, 0] ** 2
    x[:, 2] = 0.1 * x[:, 2] + 0.5 * x[:, 0] * x[:, 1]
    return x


def test_a_ridge_is_straight_and_the_map_is_undone():
    x = bent_points(5000, 0)
    bend = Bend.of(x, np.full(len(x), 1 / len(x)), len(x), np.array([0, 1, 2]))
    u = bend.unbent(x)
    np.testing.assert_allclose(bend.bent(u), x, atol=1e-10)

    def straightness(v):
        features = np.stack([v[:, 0] ** 2, v[:, 0] * v[:, 1]])
        return np.abs(np.corrcoef(features, v[:, 1:].T)[:2, 2:]).max()

    assert straightness(u) < 0.1 < 0.9 < straightness(x)


@pytest.mark.slow
def test_one_map_serves_arrays_and_programs_and_keeps_volumes():
    x = bent_points(2000, 1)
    bend = Bend.of(x, np.full(len(x), 1 / len(x)), len(x), np.array([2, 0, 1]))
    u = bend.unbent(x[:5])
    program = jax.jit(lambda bend, u: bend.bent_point(u))
    for one, point in zip(u, x, strict=False):
        np.testing.assert_allclose(program(bend, one), point, atol=1e-10)
        jacobian = jax.jacfwd(bend.bent_point)(one)
        np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], bend.log_scale, atol=1e-8)


def test_no_bend_leaves_points_alone():
    x = bent_points(10, 2)
    np.testing.assert_array_equal(Bend.none(3).bent(x), x)
    np.testing.assert_array_equal(Bend.none(3).unbent(x), x)
