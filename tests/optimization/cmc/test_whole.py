"""Chains on all data in place of shards: they find their way between modes, or are not certified."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from homodyne.errors import ConvergenceError
from homodyne.optimization.cmc import whole
from homodyne.optimization.cmc.models.adapters import LogDensityModel
from homodyne.optimization.cmc.models.numpyro_model import NumPyroModel
from homodyne.optimization.cmc.whole import look_for_modes, sample_whole

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


def up_to_an_end(width, data):
    """Uniform up to an unknown end: the posterior is highest at a wall, without a mode."""
    end = numpyro.sample("end", dist.Gamma(2.0, 2.0 / width))
    numpyro.sample("y", dist.Uniform(0.0, end), obs=data["y"])


@pytest.mark.parametrize(("width", "most"), [(1e4, 1e4), (0.01, 20.0)])  # where the prior is, and where it is not
def test_chains_start_where_the_posterior_is_not_zero_though_it_has_no_mode(width, most):
    data = {"y": most * np.linspace(0.1, 1.0, 10)}
    found = look_for_modes(NumPyroModel(partial(up_to_an_end, width), data), data, 10, 0)
    assert not found.modes
    assert np.exp(found.possible[0]) > most


@pytest.mark.parametrize(
    ("y", "message"),
    [([0.5, -1.0, 2.0], "1 of 3 observations are impossible at every one, such as y = -1.0"), ([1e40, 1.0], "1e\\+40")],
)
def test_observations_that_are_impossible_are_named(y, message):
    data = {"y": np.array(y)}
    with pytest.raises(ConvergenceError, match=message):
        look_for_modes(NumPyroModel(partial(up_to_an_end, 1e4), data), data, len(y), 0)
