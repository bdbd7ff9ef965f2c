"""A result as a NeXus file: every group has its class, the default plot is found, numbers and provenance are those."""

import io

import h5py
import numpy as np
import pytest

from homodyne.config import yaml
from homodyne.result.curves import rate_draws
from homodyne.result.nexus import nexus_bytes

CLASSES = {"entry": "NXentry", "entry/process": "NXprocess", "entry/rates/J": "NXdata"}


@pytest.fixture
def opened(laminar):
    with h5py.File(io.BytesIO(nexus_bytes(laminar.result, "/data/run42.h5")), "r") as file:
        yield file


def test_every_group_has_a_class(opened):
    found = {"": opened.attrs["NX_class"]}
    opened.visititems(lambda name, item: found.update({name: item.attrs["NX_class"]} if hasattr(item, "keys") else {}))
    assert all(kind.startswith("NX") for kind in found.values())
    assert {name: found[name] for name in CLASSES} == CLASSES


def test_the_default_plot_is_a_rate_with_errors_and_units(opened, laminar):
    group = opened
    while "default" in group.attrs:
        group = group[group.attrs["default"]]
    assert group.attrs["NX_class"] == "NXdata"
    signal, (axis,) = group.attrs["signal"], group.attrs["axes"]
    assert (signal, axis, group[signal].attrs["units"], group[axis].attrs["units"]) == ("J", "age", "Å²/s", "s")
    np.testing.assert_array_equal(group[axis], laminar.result.t)
    total = laminar.result.num_chains * laminar.result.num_draws
    draws = rate_draws(laminar.result, laminar.result.t, np.arange(total))[0].value
    low, middle, high = np.quantile(draws, (0.16, 0.5, 0.84), axis=0)
    np.testing.assert_allclose(group[signal], middle)
    np.testing.assert_allclose(group[f"{signal}_errors"], (high - low) / 2)


def test_numbers_are_those_of_the_result(opened, laminar):
    result, found = laminar.result, opened["entry/parameters"]
    for name, draws in result.samples.items():
        np.testing.assert_array_equal(opened[f"entry/posterior/{name}"], draws)
        np.testing.assert_array_equal(found[name], result.mean[name])
        np.testing.assert_array_equal(found[f"{name}_errors"], result.sd[name])
        assert found[name].attrs.get("units", "") == result.units.get(name, "")
    np.testing.assert_array_equal(opened["entry/maps/phi"], result.phi)


def test_it_says_what_was_done(opened, laminar):
    process, result = opened["entry/process"], laminar.result
    said = [process[name][()].decode() for name in ("program", "verdict", "found", "trust", "next")]
    assert said[:2] == ["homodyne", str(result.verdict)]
    assert said[2:] == [result.words.found, result.words.trust, result.words.next]
    assert process["input/file_name"][()].decode() == "/data/run42.h5"
    assert yaml.parse(process["configuration/data"][()].decode(), "configuration") == dict(result.config)
    assert process["settings/seed"][()] == result.seed
    assert {name: text[()].decode() for name, text in process["versions"].items()} == dict(result.versions)


def test_fixed_parameters_and_other_models(static, generic):
    with h5py.File(io.BytesIO(nexus_bytes(static.result)), "r") as file:
        found = file["entry/parameters"]
        assert found["alpha"][()] == static.result.fixed["alpha"]
        assert "alpha_errors" not in found
    with h5py.File(io.BytesIO(nexus_bytes(generic)), "r") as file:
        assert "rates" not in file["entry"]
        assert file["entry/parameters/weights%2Flayer"].shape == (2, 3)
