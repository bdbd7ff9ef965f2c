"""What is unusual is said first, by one table."""

import numpy as np
import pytest

from homodyne.data import describe, from_cube, load
from homodyne.data.plausibility import LIMITS, implausible


@pytest.fixture
def usual(made):
    t = 0.1 * np.arange(1, 31)
    decay = 1 + 0.3 * np.exp(-np.abs(t[:, None] - t)) + 0.01 * np.random.default_rng(0).normal(size=(30, 30))
    cube = np.array([np.triu(decay) + np.triu(decay, 1).T])
    return lambda c2=cube, t=t, q=0.01, gap=2e6: from_cube(c2, t, [0.0], q=q, gap=gap)


def test_usual_data_are_not_remarked_on(usual):
    assert implausible(usual()) == []
    assert implausible(usual(gap=None)) == []


def test_every_row_of_the_table(usual):
    cube, t = usual().c2, usual().t
    assert implausible(usual(gap=200.0))[0].startswith("gap = 200 Å is unusual (expected 10000 to 1e+08: ")
    assert "2e6 Å" in implausible(usual(gap=0.2))[0]
    assert implausible(usual(), gap=200.0)
    assert "1/nm" in implausible(usual(q=5.0))[0]
    assert implausible(usual(t=1e8 * t))[0].startswith("dt = 1e+07 s is unusual")
    assert [one.split(" ")[0] for one in implausible(usual(c2=1 + 10 * (cube - 1)))] == ["contrast", "baseline"][:1]
    assert implausible(usual(c2=1e4 * cube))[-1].startswith("baseline = ")
    assert "need 1 added" in implausible(usual(c2=cube - 1))[0]
    assert len(LIMITS) == 6


def test_inspect_says_it_first(nxxpcs):
    path = nxxpcs(
        change=lambda file: file["/entry/instrument/masks/dynamic_q_list"].attrs.__setitem__("units", "nm^-1")
    )
    assert describe(path).implausible == ()
    path = nxxpcs(
        change=lambda file: file["/entry/instrument/detector_1/frame_time"].attrs.__setitem__("units", "days")
    )
    first = str(describe(path)).splitlines()[0]
    assert first.startswith("WARNING     dt = 8.64e+06 s is unusual")


def test_the_origin_of_age_is_said(npz):
    assert load(npz()).source["age"] == "0.2 s at frame 1"
    assert load(npz(), frames=(5, 12)).source["age"] == (
        "0.2 s at frame 5: ages count from there (age_origin = 0.8: from frame 1)"
    )
    assert load(npz(), frames=(5, 12), age_origin=0.8).source["age"] == "1 s at frame 5"
