"""All modes are found, or it is said that there are more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import homodyne.physics  # noqa: F401  makes JAX compute in float64
from homodyne.certificate import mode_search
from homodyne.certificate.mode_search import search

pytestmark = pytest.mark.slow

CENTRES = np.random.default_rng(1).uniform(-50.0, 50.0, (20, 2))


def mixture(z):
    """Twenty normal distributions of equal weight."""
    return jax.scipy.special.logsumexp(-0.5 * jnp.sum((z - CENTRES) ** 2, axis=1))


def wide(n, rng):
    return rng.normal(0.0, 40.0, (n, 2))


def missing(found):
    """Centres that are no mode found."""
    points = np.array([mode.point for mode in found.modes])
    return [k for k, centre in enumerate(CENTRES) if np.linalg.norm(points - centre, axis=1).min() > 1.0]


def test_twenty_modes_of_equal_weight():
    found = search(mixture, wide, np.zeros((0, 2)), np.random.default_rng(0))
    assert missing(found) == []
    assert found.complete
    assert found.shares.sum() == pytest.approx(1.0)
    assert "20 modes" in found.sentence or "19 modes" in found.sentence  # two of them may have grown together


def test_modes_still_coming_are_told(monkeypatch):
    """Starts that reach a part of the modes only, each rarely: those once found say how many there may be."""
    monkeypatch.setattr(mode_search, "FIRST", 8)
    monkeypatch.setattr(mode_search, "DOUBLINGS", 0)
    monkeypatch.setattr(mode_search, "PEAKS", 0)
    found = search(mixture, wide, np.zeros((0, 2)), np.random.default_rng(0))
    assert missing(found)
    assert not found.complete
    assert "still coming" in found.sentence
    monkeypatch.setattr(mode_search, "UNSEEN", 2.0)  # planted: nobody asks how many were found once only
    assert search(mixture, wide, np.zeros((0, 2)), np.random.default_rng(0)).complete


def test_aliases_of_a_frequency_are_found_by_scans(monkeypatch):
    """Even sampling cannot tell f from f + 1; basins are a hundredth of the prior wide."""
    times = np.arange(40.0)
    y = np.sin(2 * np.pi * 0.13 * times + 0.4) + 0.3 * np.random.default_rng(2).normal(size=40)

    def log_density(z):
        wave = jnp.sin(2 * jnp.pi * z[0] * times + 0.4)
        return -0.5 * jnp.sum((y - wave) ** 2) / 0.09 - 0.5 * z[0] ** 2

    def draw(n, rng):
        return rng.normal(0.0, 1.0, (n, 1))

    def aliases(found):
        return {round(float(mode.point[0] - 0.129)) for mode in found.modes if mode.point[0] - 0.129 < 2.5}

    found = search(log_density, draw, np.zeros((0, 1)), np.random.default_rng(0))
    assert {-2, -1, 0, 1, 2} <= aliases(found)
    assert found.complete
    monkeypatch.setattr(mode_search, "PEAKS", 0)  # planted: no scan
    monkeypatch.setattr(mode_search, "DOUBLINGS", 0)
    assert not {-2, -1, 0, 1, 2} <= aliases(search(log_density, draw, np.zeros((0, 1)), np.random.default_rng(0)))


def test_one_mode_is_one():
    found = search(lambda z: -0.5 * jnp.sum(z**4 + z**2), lambda n, rng: rng.normal(size=(n, 3)), np.zeros((1, 3)),
                   np.random.default_rng(0))  # fmt: skip
    assert len(found.modes) == 1
    assert found.unseen == 0.0
    np.testing.assert_allclose(found.normals()[0][0], 0.0, atol=1e-6)


def test_a_density_without_a_maximum_has_no_mode():
    found = search(lambda z: z[0], lambda n, rng: rng.normal(size=(n, 1)), np.zeros((1, 1)), np.random.default_rng(0))
    assert found.modes == []
    assert not found.complete
