"""Values and derivatives against NumPy."""

import jax
import numpy as np
import pytest

from homodyne.physics.elementary import combination, cosine, direction_cosine, power, sinc

X = np.concatenate([np.linspace(1e-3, 40.0, 4001), np.pi * np.arange(1, 9), np.pi * (np.arange(9) + 0.5)])
FAR = np.geomspace(1e12, 1e300, 50)  # where the phase has no digits left, and a series would explode


def derivatives(function, count):
    """The function and so many of its derivatives."""
    found = [function]
    for _ in range(count):
        found.append(jax.grad(found[-1]))
    return found


def test_sinc():
    x = np.concatenate([X, [1e-200, 1e3 + 0.1, 1e5 + 0.3]])
    np.testing.assert_allclose(sinc(x), np.sin(x) / x, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(sinc(-x), sinc(x))
    assert np.all(np.abs(sinc(FAR)) <= 1.1 / FAR)
    found = derivatives(sinc, 4)
    np.testing.assert_allclose([float(f(0.0)) for f in found], [1.0, 0.0, -1 / 3, 0.0, 1 / 5], atol=1e-14)
    slope, second = (jax.vmap(one)(X) for one in found[1:3])
    expected = (np.cos(X) - np.sin(X) / X) / X
    np.testing.assert_allclose(slope[X > 0.1], expected[X > 0.1], atol=1e-13)
    np.testing.assert_allclose(slope[X < 0.1], -X[X < 0.1] / 3 + X[X < 0.1] ** 3 / 30, atol=1e-8)
    near = X > 0.1
    np.testing.assert_allclose(second[near], (-np.sin(X) / X - 2 * expected / X)[near], atol=1e-11)


def test_cosine():
    x = np.concatenate([-X, [0.0], X, [1e3 + 0.1, 1e5 + 0.3]])
    np.testing.assert_allclose(cosine(x), np.cos(x), atol=2e-12)
    np.testing.assert_allclose(cosine(x[:-2]), np.cos(x[:-2]), atol=1e-14)
    assert np.all(np.abs(cosine(FAR)) <= 1.1)
    first, second = (jax.vmap(one)(x[:-2]) for one in derivatives(cosine, 2)[1:])
    np.testing.assert_allclose(first, -np.sin(x[:-2]), atol=1e-14)
    np.testing.assert_allclose(second, -np.cos(x[:-2]), atol=1e-14)


@pytest.mark.parametrize("phi0", [-170.0, 0.0, 33.0, 179.5])
def test_direction_cosine(phi0):
    phi = np.linspace(-180.0, 180.0, 37)
    np.testing.assert_allclose(direction_cosine(phi0, phi), np.cos(np.deg2rad(phi0 - phi)), atol=1e-15)
    np.testing.assert_allclose(direction_cosine(phi, phi0), np.cos(np.deg2rad(phi0 - phi)), atol=1e-15)
    slope = jax.vmap(jax.grad(direction_cosine), (None, 0))(phi0, phi)
    np.testing.assert_allclose(slope, -np.deg2rad(1.0) * np.sin(np.deg2rad(phi0 - phi)), atol=1e-15)


def test_combination_is_the_same_for_numbers_and_for_arrays():
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(4, 1)), rng.normal(size=5)
    for factors in [(2.0, -0.5), (rng.normal(size=5), 3.0), (np.float32(2.0), rng.normal(size=(3, 1, 1)))]:
        expected = factors[0] * parts[0] + factors[1] * parts[1]
        np.testing.assert_allclose(combination(factors, parts), expected, rtol=1e-14)
    assert combination((1, 2), (3, 4)).dtype == np.float64


def test_power():
    x = np.geomspace(1e-200, 1e200, 41)
    np.testing.assert_allclose(power(x, 0.7), x**0.7, rtol=1e-13)
    np.testing.assert_allclose(jax.vmap(jax.grad(power, 1), (0, None))(x, 0.7), x**0.7 * np.log(x), rtol=1e-12)
