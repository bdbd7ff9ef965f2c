"""The checks for outside authors pass what the package brings, and catch what breaks the rules."""

import h5py
import numpy as np
import pytest

from homodyne.errors import InputError
from homodyne.optimization.cmc.backends import SequentialBackend
from homodyne.physics.model import MODELS
from homodyne.registries import COMBINERS, FORMATS
from homodyne.testing import check_backend, check_combiner, check_model, check_reader

PRODUCTS = [name for name in COMBINERS if COMBINERS[name].is_product]


@pytest.mark.parametrize("method", PRODUCTS)
def test_ways_to_combine_of_the_package_pass(method):
    check_combiner(method)


def too_wide(shards, request):
    y = 1.3 * request.rng.standard_normal((request.num_samples, len(shards.center)))
    return shards.merged(y, np.zeros(y.shape[1]), 1.69 * np.eye(y.shape[1]))


def other_draws(shards, request):
    """Draws that are not those of the mean and covariance beside them."""
    merged = COMBINERS["weighted"].combine(shards, request)
    return merged._replace(samples=merged.samples[:, ::-1])


def unseeded(shards, request):
    merged = COMBINERS["swiss"].combine(shards, request)
    return merged._replace(samples=merged.samples[np.random.default_rng().permutation(len(merged.samples))])


@pytest.mark.parametrize("wrong", [too_wide, other_draws, unseeded])
def test_a_wrong_way_to_combine_is_caught(wrong):
    COMBINERS.register("wrong", wrong)
    with pytest.raises(AssertionError):
        check_combiner("wrong")


def test_pooling_is_no_product():
    with pytest.raises(AssertionError):
        check_combiner("average", counts=(4,))


@pytest.mark.parametrize("name", list(MODELS))
def test_models_of_the_package_pass(name):
    check_model(MODELS[name]())


class Twice(SequentialBackend):
    """Gives the first result a second time."""

    def run(self, tasks, *, on_result, progress=None):
        failures = super().run(tasks, on_result=on_result, progress=progress)
        super().run(tasks[:1], on_result=on_result)
        return failures


@pytest.mark.slow
def test_backends_are_compared_with_the_sequential_one():
    check_backend(SequentialBackend())
    with pytest.raises(AssertionError, match="came twice"):
        check_backend(Twice())


READER = """
import numpy as np
from homodyne.data.readers.catalog import Catalog

NAME = "strange"
CONTAINERS = ("HDF5",)
SHIFT = {shift}

def absent(source):
    return [path for path in ("/strange",) if path not in source]

def catalog(source, units):
    maps, n = source["strange"], source["strange"].shape[-1]

    def read_map(index, frames, out):
        out[:] = maps[index, frames, frames] + SHIFT * frames.start

    return Catalog(num_maps=len(maps), num_frames=n, read_map=read_map, q=np.full(len(maps) + {more}, 0.01),
                   phi=np.arange(float(len(maps))), dt=0.1)
"""


@pytest.mark.parametrize(("name", "shift", "more"), [("good", 0, 0), ("shifted", 1, 0), ("longer", 0, 1)])
def test_readers(tmp_path, monkeypatch, name, shift, more):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}_reader.py").write_text(READER.format(shift=shift, more=more))
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["strange"] = np.triu(1.1 + np.random.default_rng(0).normal(0, 0.02, (2, 20, 20)))
    FORMATS.register("strange", f"{name}_reader")
    if name == "good":
        check_reader("strange", tmp_path / "file.h5")
    else:
        with pytest.raises(AssertionError, match=r"part and whole differ|q has shape \(3,\)"):
            check_reader("strange", tmp_path / "file.h5")


def test_a_reader_has_to_be_known():
    with pytest.raises(InputError, match="unknown file format 'strange'"):
        check_reader("strange", "file.h5")
