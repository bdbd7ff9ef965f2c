"""Shards on several JAX devices, made of one CPU in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homodyne.errors import InputError
from homodyne.optimization.cmc.backends import BackendOptions, SequentialBackend
from homodyne.optimization.cmc.backends.pjit import PjitBackend, is_pure_jax
from homodyne.optimization.cmc.models.model import Model

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent

PROGRAM = """
import sys
sys.path.insert(0, {here!r})
import jax
import numpy as np
from homodyne.testing import regression as jax_shards
from homodyne.optimization.cmc.backends.base import BackendOptions
from homodyne.optimization.cmc.backends.pjit import PjitBackend

used, model = set(), jax_shards.model()
load = type(model).load

def watched(self, arrays):
    loaded = load(self, arrays)
    used.update(str(leaf.device) for leaf in jax.tree.leaves(loaded))
    return loaded

type(model).load = watched
shards = [jax_shards.data(k, 300 if k < 4 else 207) for k in range(5)]
backend = PjitBackend(BackendOptions(), shards_per_device=2)
results = backend.run_parallel_mcmc(
    shards, {settings}, {{"slope": 0.5, "log_sigma": 0.0}}, np.diag([3e-3, 2e-3]), model=model, seed=3
)
np.save(sys.argv[1], np.stack([result["samples"] for result in results]))
print(len(jax.devices()), len(used), [result["attempts"] for result in results])
"""
SETTINGS = {"num_warmup": 10, "num_samples": 20, "num_chains": 1}


@pytest.fixture(scope="module")
def alone():
    """Draws of the sequential backend."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        from homodyne.testing import regression as jax_shards
    shards = [jax_shards.data(k, 300 if k < 4 else 207) for k in range(5)]
    results = SequentialBackend().run_parallel_mcmc(
        shards, SETTINGS, {"slope": 0.5, "log_sigma": 0.0}, np.diag([3e-3, 2e-3]), model=jax_shards.model(), seed=3
    )
    return np.stack([each["samples"] for each in results])


@pytest.mark.parametrize("cache", ["true", "false"])
def test_every_device_samples_and_the_draws_are_those_of_the_sequential_backend(cache, alone, tmp_path, monkeypatch):
    flags = os.environ.get("XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_force_host_platform_device_count=2")
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", cache)
    text = PROGRAM.format(here=str(HERE), settings=SETTINGS)
    done = subprocess.run(
        [sys.executable, "-c", text, tmp_path / "draws.npy"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "2 2 [1, 1, 1, 1, 1]\n", done.stderr
    if cache == "false":  # for each shape and device, more often where threads of one device start together; not more
        assert 3 <= done.stderr.count("Finished XLA compilation of jit(advance)") <= 5
    np.testing.assert_array_equal(np.load(tmp_path / "draws.npy"), alone)


class OnHost(Model):
    """Keeps the data out of the arguments, or calls back to the host."""

    names = ("level",)

    def __init__(self, hidden):
        self.hidden = hidden

    def log_prior(self, z):
        return -0.5 * z[0] ** 2

    def log_likelihood(self, z, shard, power):
        if self.hidden:
            return -0.5 * z[0] ** 2
        return jax.pure_callback(lambda x: np.float64(-x * x), jnp.zeros(()), z[0]) + shard["x"].sum()

    def argument(self, shard):
        return () if self.hidden else shard


@pytest.mark.parametrize("hidden", [True, False])
def test_a_model_on_the_host_is_refused(hidden, tmp_path):
    model = OnHost(hidden)
    assert not is_pure_jax(model, {"x": jnp.ones(3)}, 1.0)
    with pytest.raises(InputError, match="'pjit' cannot run OnHost: its likelihood is computed on the host"):
        PjitBackend().run_parallel_mcmc([{"x": np.ones(3)}], {}, {"level": 0.0}, np.eye(1), model=model)


def test_a_numpyro_model_runs_on_devices():
    import numpyro
    from numpyro import distributions as dist

    from homodyne.optimization.cmc import NumPyroModel

    def line(data):
        level = numpyro.sample("level", dist.Normal(0.0, 10.0))
        numpyro.sample("y", dist.Normal(level, 1.0), obs=data["y"])

    data = {"y": np.arange(5.0)}
    model = NumPyroModel(line, data)
    assert is_pure_jax(model, model.load(data), 0.5)


def test_devices_are_counted():
    with pytest.raises(InputError, match="shards_per_device is 0"):
        PjitBackend(BackendOptions(), shards_per_device=0)
