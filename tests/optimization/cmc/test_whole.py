"""Chains on all data in place of shards: they find their way between modes, or are not certified."""

import jax.numpy as jnp
import numpy as np
import pytest

from homodyne.optimization.cmc import whole
from homodyne.optimization.cmc.models.adapters import LogDensityModel
from homodyne.optimization.cmc.whole import sample_whole

pytestmark = pytest.mark.slow

FAR, SHARE = 10.0, 0.3  # place of the modes, and mass of the left one


def two_modes(z):
    left, right = jnp.log(SHARE) - 0.5 * (z[0] + FAR) ** 2, jnp.log(1.0 - SHARE) - 0.5 * (z[0] - FAR) ** 2
    return jnp.logaddexp(left, right) - 0.5 * z[1] ** 2


def nothing_measured(z, data):
    return 0.0 * z[0] * jnp.sum(data["y"])


MODES = [(np.array([place, 0.0]), np.eye(2)) for place in (FAR, -FAR)]


def chains(monkeypatch):
    """Chains that start at the better mode, and whether the certificate is told that they have converged."""
    told, certify = [], whole.certify

    def listening(*args, **given):
        told.append(given["converged"])
        return certify(*args, **given)

    monkeypatch.setattr(whole, "certify", listening)
    model = LogDensityModel(["x", "y"], two_modes, nothing_measured)
    found = sample_whole(model, model.load({"y": np.zeros(4)}), *MODES[0], MODES, 500, 0)
    return found, told[0]


def test_chains_jump_between_modes_that_are_known(monkeypatch):
    found, converged = chains(monkeypatch)
    assert np.mean(found.z[..., 0] < 0.0) == pytest.approx(SHARE, abs=0.05)
    assert converged
    assert found.judged.certificate.verdict == "CERTIFIED"


def test_chains_that_never_left_their_mode_have_not_converged(monkeypatch):
    """Planted: nothing to jump to. The chains agree with each other all the same."""
    monkeypatch.setattr(whole, "_followed", lambda *args: None)
    found, converged = chains(monkeypatch)
    assert np.all(found.z[..., 0] > 0.0)
    assert found.chains.converged
    assert not converged
    assert found.judged.certificate.verdict != "CERTIFIED"
