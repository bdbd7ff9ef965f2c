"""Units: what a file states and what its user says, by one rule for every quantity of every format."""

import h5py
import numpy as np
import pytest

from homodyne.data import describe, from_arrays, from_cube, load
from homodyne.data.references import open_reference
from homodyne.data.units import Units
from homodyne.errors import DataError


@pytest.mark.parametrize(
    ("quantity", "factor", "texts"),
    [
        ("frame_time", 1.0, "s S. Sec second SECONDS secs"),
        ("frame_time", 1e-3, "ms msec millisecond Milliseconds"),
        ("frame_time", 1e-6, "us usec µs μs microsecond"),
        ("frame_time", 60.0, "min minutes"),
        (
            "q",
            1.0,
            "1/A 1/Å 1/Å Å^-1 Å⁻¹ Å−1 A-1 A^{-1} 1/angstrom 1/Angstroms angstrom-1 Angstrom**-1 inverse_angstrom",
        ),
        ("q", 0.1, "1/nm nm^-1 nm⁻¹ nm-1 nm**-1 1/(nm) per_nanometer 1/nanometers"),
        ("q", 1e-10, "1/m m^-1"),
        ("phi", 1.0, "deg degree Degrees °"),
        ("phi", 180 / np.pi, "rad radian radians"),
        ("gap", 1e4, "um µm micrometer microns"),
    ],
)
def test_spellings(quantity, factor, texts):
    for text in texts.split():
        if text == "S.":  # siemens
            continue
        assert Units().factor(quantity, text, "there") == pytest.approx(factor, rel=1e-12), text
    assert Units().factor("q", "inverse angstrom", "there") == 1.0


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        ("frame_time", "S"),
        ("frame_time", "Hz"),
        ("frame_time", "furlong"),
        ("frame_time", "10 s"),
        ("q", "nm"),
        ("q", "1/s"),
        ("phi", "percent"),
        ("phi", "%"),
        ("gap", "1/nm"),
        ("q", "9**9**9**9"),
        ("q", "x" * 10_000),
    ],
)
def test_what_is_no_unit_is_refused_with_how_to_say_it(quantity, text):
    with pytest.raises(DataError, match=f"no unit of {quantity}.*--unit {quantity}="):
        Units().factor(quantity, text, "there")
    assert Units({quantity: {"frame_time": "ms", "q": "1/nm", "phi": "rad", "gap": "um"}[quantity]}).factor(
        quantity, text, "there"
    )


def states(path, **attributes):
    def change(file):
        for name, value in attributes.items():
            file[path].attrs[name] = value

    return change


FRAME_TIME = "/entry/instrument/detector_1/frame_time"
MASKS = "/entry/instrument/masks/"


@pytest.mark.parametrize("name", ["unit", "units", "Units", "UNIT"])
def test_every_attribute_of_every_quantity(aps_u, aps_8idi, nxxpcs, name):
    def attrs(path, text, other=None):
        def change(file):
            for old in list(file[path].attrs):
                del file[path].attrs[old]
            file[path].attrs[name] = text

        return change

    assert load(aps_u(change=attrs(FRAME_TIME, "ms")), q=0.004).dt == pytest.approx(6e-5)
    no_list = lambda f: (f.__delitem__("/xpcs/qmap/map_units"), attrs("/xpcs/qmap/dynamic_v_list_dim0", "1/nm")(f))  # noqa: E731
    assert load(aps_u(change=no_list), q=0.0004).q[0] == pytest.approx(0.0004)
    exposure = "/measurement/instrument/detector/exposure_period"
    assert load(aps_8idi(attrs(exposure, "ms")), q=0.01).dt == pytest.approx(1e-3)
    assert load(aps_8idi(attrs("/xpcs/dqlist", "nm^-1")), q=0.001).q[0] == pytest.approx(0.001)
    assert load(aps_8idi(attrs("/xpcs/dphilist", "rad")), q=0.01).phi == pytest.approx(np.degrees([20.0, 10.0]))
    assert load(nxxpcs(change=attrs(FRAME_TIME, "millisecond")), q=0.005).dt == pytest.approx(0.1)
    assert load(nxxpcs(change=attrs(MASKS + "dynamic_q_list", "1/nm")), q=0.0005).q[0] == pytest.approx(0.0005)
    assert load(nxxpcs(change=attrs(MASKS + "dynamic_phi_list", "rad")), q=0.005).phi[1] == pytest.approx(
        1718.873, 1e-6
    )


def test_two_units_of_one_list_are_refused(aps_u, nxxpcs):
    with pytest.raises(DataError, match="is in 'ms' and in 's'; expected one unit"):
        load(nxxpcs(change=states(FRAME_TIME, unit="s")), q=0.005)
    with pytest.raises(DataError, match=r"dim0 is in '1/nm', but /xpcs/qmap/map_units says '1/A'"):
        load(aps_u(change=states("/xpcs/qmap/dynamic_v_list_dim0", units="1/nm")), q=0.004)


def test_units_from_outside(nxxpcs, npz, aps_u):
    path = nxxpcs(change=states(FRAME_TIME, units="ticks"))
    with pytest.raises(DataError, match=r"frame_time is in 'ticks', .*\(--unit frame_time=ms\)"):
        load(path, q=0.005)
    data = load(path, q=0.005, units={"dt": "ms"})
    assert data.dt == pytest.approx(0.1)
    assert describe(path, units={"frame_time": "ms"}).dt == pytest.approx(0.1)
    open_reference(data.places[0])
    with pytest.raises(DataError, match=r"is in 'ms', but units gives 's'"):
        load(nxxpcs(), q=0.005, units={"frame_time": "s"})
    data = load(npz(), units={"t": "ms", "q": "1/nm", "phi": "rad"})
    assert (data.dt, data.q[0], data.phi[1]) == pytest.approx((2e-4, 5.4e-4, 90 * 180 / np.pi))
    assert any("unit of q: 1/Å assumed" in line for line in describe(npz()).missing)
    with pytest.raises(DataError, match="quantity 'mass'; expected one of"):
        load(npz(), units={"mass": "kg"})
    with pytest.raises(DataError, match="in 'kg', which is no unit of it; expected 1/Å, 1/nm"):
        load(npz(), units={"q": "kg"})
    with pytest.raises(DataError, match="units names gap"):
        load(npz(), units={"gap": "um"})


def test_arrays_in_other_units(made):
    t = np.arange(1, 13.0)
    maps = made.cube(2)
    plain = from_cube(maps, 1e-3 * t, [0.0, 90.0], q=0.01, gap=2e6)
    options = {"q": 0.1, "gap": 200.0, "units": {"t": "ms", "q": "1/nm", "phi": "rad", "gap": "um"}}
    other = from_cube(maps, t, np.radians([0.0, 90.0]), **options)
    i, j = np.triu_indices(12, 1)
    flat = from_arrays(
        maps[:, i, j].ravel(), np.tile(t[i], 2), np.tile(t[j], 2), np.repeat(np.radians([0.0, 90.0]), i.size), **options
    )
    for found in (other, flat):
        np.testing.assert_allclose(found.t, plain.t)
        np.testing.assert_allclose(found.phi, plain.phi)
        np.testing.assert_allclose(found.q, plain.q)
        assert (found.dt, found.gap) == pytest.approx((plain.dt, plain.gap))
    with pytest.raises(DataError, match="units names gap"):
        from_cube(maps, t, [0.0, 90.0], q=0.01, units={"gap": "um"})


def test_own_files_have_our_units(tmp_path, made):
    from homodyne.data import save_hdf5

    save_hdf5(tmp_path / "own.h5", from_cube(made.cube(2), np.arange(1, 13.0), [0.0, 90.0], q=0.01))
    with pytest.raises(DataError, match="units names q"):
        load(tmp_path / "own.h5", units={"q": "1/nm"})
    with h5py.File(tmp_path / "own.h5") as file:
        assert "units" not in file.attrs
