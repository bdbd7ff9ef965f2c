import dataclasses
import os
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest
import xarray as xr

import homodyne
from homodyne import reading
from homodyne.data import describe, files, from_cube, load, save_hdf5, save_npz, write_aps_u
from homodyne.errors import DataError, ExecutionError, InputError

N = 14


def measured(q=0.0054, phi=(-20.0, 0.0, 35.0), seed=0, **given):
    """Data as a detector gives them: raw diagonal, dead frames (one at one angle only), a missing point."""
    rng = np.random.default_rng(seed)
    maps = np.triu(rng.normal(1.1, 0.05, (len(phi), N, N)), 1).astype(np.float32)
    maps[:, range(N), range(N)] = rng.normal(3.0, 0.2, (len(phi), N))
    maps[:, 4, :] = maps[:, :, 4] = 0.0
    maps[0, 2, 7] = np.nan
    maps[1:2, 9, 9:] = maps[1:2, :10, 9] = np.nan
    given = {
        "gap": 2e6,
        "pixels": 50 + np.arange(len(phi)),
        "mean_counts": 0.25 + np.arange(len(phi)),
    } | given
    return from_cube(maps, given.pop("t", 0.3 + 0.1 * np.arange(N)), phi, q, **given)


def marked(data):
    """Maps with NaN wherever there is no data."""
    return [np.where(data.usable(k), data.c2[k], np.nan) for k in range(data.num_maps)]


def assert_same(one, two, *, exact=True):
    np.testing.assert_array_equal(marked(one), marked(two))
    np.testing.assert_array_equal(one.alive, two.alive)
    assert (one.num_pairs, one.frames) == (two.num_pairs, two.frames) or not exact
    tolerance = 0 if exact else 1e-6
    for name in ("t", "phi", "q", "diagonal", "pixels", "mean_counts"):
        first, second = getattr(one, name), getattr(two, name)
        assert (first is None) == (second is None), name
        if first is not None:
            np.testing.assert_allclose(first, second, rtol=tolerance, atol=0)
    assert one.dt == pytest.approx(two.dt, rel=tolerance)
    if exact:
        assert (one.gap, one.age_origin, dict(one.source)) == (two.gap, two.age_origin, dict(two.source))


VARIANTS = {
    "everything": {},
    "several q": {"q": [0.004, 0.0054, 0.0054], "phi": (0.0, 0.0, 35.0)},
    "bare": {"gap": None, "pixels": None, "mean_counts": None},
    "uneven times": {"t": 1.0 + np.arange(N) ** 2},
    "frames": {"frames": (101, 114), "source": {"path": "elsewhere", "note": "Å"}},
}


@pytest.mark.parametrize("given", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize(("save", "name"), [(save_npz, "a.npz"), (save_hdf5, "a.h5")])
def test_own_files_give_everything_back(tmp_path, save, name, given):
    data = measured(**given)
    save(tmp_path / name, data)
    again = load(tmp_path / name, q="all")
    facts = {"path", "format", "dt"} - dict(data.source).keys()
    assert facts <= dict(again.source).keys()
    for key in facts:
        del again.source[key]
    assert_same(again, data)
    assert describe(tmp_path / name).format == "homodyne"
    assert again.digest() == data.digest()
    part = load(tmp_path / name, q=0.0054, phi=[0.0], frames=(2, 11))
    np.testing.assert_array_equal(part.t, data.t[1:11])
    assert part.frames == (data.frames[0] + 1, data.frames[0] + 10)
    with pytest.raises(DataError, match="states the age of every frame"):
        load(tmp_path / name, q="all", age_origin=7.0)


def test_frames_left_out_by_hand_stay_out(tmp_path):
    data = measured()
    fewer = dataclasses.replace(data, alive=data.alive & (np.arange(N) != 6), diagonal=None)
    save_npz(tmp_path / "a.npz", fewer)
    again = load(tmp_path / "a.npz")
    assert again.bad_frames.tolist() == [4, 6]
    assert again.diagonal is None
    assert again.num_pairs == fewer.num_pairs
    assert data.good[6]


@pytest.mark.parametrize("name", ["t", "q", "alive", "scalars", "source", "c2", "pixels"])
def test_own_files_are_checked_too(tmp_path, name):
    save_npz(tmp_path / "a.npz", measured())
    with np.load(tmp_path / "a.npz") as file:
        fields = dict(file)
    np.savez(tmp_path / "sealed.npz", **fields | {name: fields[name][:-1]})
    with pytest.raises(DataError, match=r"is not what was written \(SHA-256\)|expected at most 2 numbers"):
        load(tmp_path / "sealed.npz")
    del fields["sha256"]
    with pytest.raises(DataError, match="sha256 missing"):
        np.savez(tmp_path / "torn.npz", **fields)
        load(tmp_path / "torn.npz")
    fields["homodyne_two_time"] = np.array(2)  # as it was written without a seal
    np.savez(tmp_path / "short.npz", **fields | {name: fields[name][:-1]})
    with pytest.raises(DataError, match=f"{name}|expected"):
        load(tmp_path / "short.npz")
    np.savez(tmp_path / "old.npz", **fields)
    assert load(tmp_path / "old.npz").digest() == measured().digest()
    np.savez(tmp_path / "new.npz", **fields | {"homodyne_two_time": np.array(1)})
    with pytest.raises(DataError, match="Update homodyne"):
        load(tmp_path / "new.npz")


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(("save", "name"), [(save_npz, "a.npz"), (save_hdf5, "a.h5")])
def test_no_other_value_comes_out_of_a_damaged_file(tmp_path, save, name, mapped, monkeypatch):
    monkeypatch.setattr(reading, "SECONDS", 1)
    monkeypatch.setattr(files, "MAPPED_BYTES", 0 if mapped else files.MAPPED_BYTES)
    save(tmp_path / name, measured(frames=(11, 24)))
    content, written = (tmp_path / name).read_bytes(), load(tmp_path / name, frames=(2, 11))
    rng, errors = np.random.default_rng(0), 0
    for _ in range(150):
        broken = bytearray(content)
        broken[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        (tmp_path / name).write_bytes(broken)
        try:
            found = load(tmp_path / name, frames=(2, 11))
        except DataError:
            errors += 1
        else:
            assert_same(found, written)
    assert errors > 50
    place = content.index(written.c2[0][0, 5:9].tobytes())  # planted: one bit of one number outside the selection
    broken = bytearray(content)
    broken[place - 4 * N] ^= 1
    (tmp_path / name).write_bytes(broken)
    with pytest.raises(DataError, match="SHA-256|Bad CRC-32"):
        load(tmp_path / name, frames=(2, 11))


def test_aps_u_round_trip_of_one_q(tmp_path):
    data = measured()
    write_aps_u(tmp_path / "one.hdf", data)
    again = load(tmp_path / "one.hdf", gap=2e6, age_origin=data.age_origin)
    assert_same(again, data, exact=False)
    assert again.num_pairs == data.num_pairs


def test_aps_u_round_trip_with_empty_bins(tmp_path):
    data = measured([0.0054, 0.0054, 0.0054, 0.003, 0.003, 0.01], (-20.0, 0.0, 35.0, 0.0, 90.0, 35.0))
    path = tmp_path / "many.hdf"
    write_aps_u(path, data, q_list=[0.003, 0.0054, 0.007, 0.01], phi_list=[-20.0, 0.0, 10.0, 35.0, 90.0])
    assert_same(load(path, q=[0.0054, 0.003, 0.01], age_origin=data.age_origin), data, exact=False)
    with h5py.File(path) as file:
        mapping = file["/xpcs/qmap/dynamic_index_mapping"][()]
        assert mapping.tolist() == [1, 4, 5, 6, 8, 18]
        assert file["/xpcs/twotime/processed_bins"][()].tolist() == [1, 2, 3, 4, 5, 6]
        first = file["/xpcs/twotime/correlation_map/c2_00001"]
        assert (first.compression, first.chunks, first.dtype) == ("lzf", (N, N), np.float32)
        assert not np.tril(first[()], -1).any()
        np.testing.assert_array_equal(first[4], 0.0)
        roi, mask = file["/xpcs/qmap/dynamic_roi_map"][()], file["/xpcs/qmap/mask"][()]
        assert np.bincount(roi[mask > 0]).tolist() == [0, 53, 54, 50, 51, 52, 55]
    # planted: with bins taken for cells the maps come out under other q and phi
    with h5py.File(path, "r+") as file:
        file["/xpcs/qmap/dynamic_index_mapping"][...] = np.arange(6)
    assert load(path, q=0.0054).phi.tolist() != [-20.0, 0.0, 35.0]


def test_normalized_g2_is_the_mean_along_diagonals(tmp_path):
    data = measured()
    write_aps_u(tmp_path / "one.hdf", data)
    with h5py.File(tmp_path / "one.hdf") as file:
        whole, parts = (
            file["/xpcs/twotime/normalized_g2"][()],
            file["/xpcs/twotime/normalized_g2_segments"][()],
        )
    full = np.where(np.eye(N, dtype=bool), data.diagonal[:, None, :], marked(data))
    for lag in range(N):
        for a in range(3):
            assert whole[lag, a] == pytest.approx(np.nanmean(np.diagonal(full[a], lag)), rel=1e-6)
    assert parts.shape == (2, 5, 3)
    assert parts[1, 3, 0] == pytest.approx(data.c2[0, 6, 7], rel=1e-6)
    assert np.isnan(parts[1, 2, 0])  # frames 4 and 5, and 4 is dead


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: measured(t=1.0 + np.arange(N) ** 2), "no time axis"),
        (lambda: measured(pixels=50.5), "expected whole numbers of pixels"),
    ],
)
def test_what_the_aps_u_layout_cannot_hold(tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        write_aps_u(tmp_path / "no.hdf", make())
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"q_list lacks \[0.0054\]"):
        write_aps_u(tmp_path / "no.hdf", measured(), q_list=[0.01])


@pytest.mark.parametrize("save", [save_npz, save_hdf5, write_aps_u])
def test_places_that_cannot_be_written(tmp_path, save):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "a.h5", tmp_path / "file" / "a.h5", tmp_path / "folder"):
        with pytest.raises(InputError, match="cannot write") as caught:
            save(path, measured())
        assert caught.value.exit_code == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("save", [save_npz, save_hdf5, write_aps_u])
def test_full_disk_leaves_the_old_file(tmp_path, save):
    """A real limit on the size of files, in a process of its own: writes fail as on a full disk."""
    path = tmp_path / "result.h5"
    save(path, measured())
    old = path.read_bytes()
    script = f"""
        import resource
        import numpy as np
        from homodyne.data import from_cube, {save.__name__}
        from homodyne.errors import ExecutionError

        maps = np.random.default_rng(0).normal(1.1, 0.05, (6, 150, 150)).astype(np.float32)
        data = from_cube(np.triu(maps), np.arange(1.0, 151.0), np.arange(6.0), 0.01, pixels=100)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            {save.__name__}({str(path)!r}, data)
        except ExecutionError as error:
            print(error.exit_code, error)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"4 writing {str(path)!r} failed: File too large"), done.stderr
    assert "intact" in done.stdout
    assert done.stderr == ""
    assert path.read_bytes() == old
    assert [one.name for one in tmp_path.iterdir()] == ["result.h5"]


def test_old_file_is_replaced_with_usual_permissions(tmp_path):
    path = tmp_path / "a.npz"
    save_npz(path, measured(phi=(0.0,)))
    save_npz(path, measured())
    assert load(path).num_maps == 3
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_error_while_writing_leaves_nothing(tmp_path):
    from homodyne.files import OWN, replacing

    path = tmp_path / "a.bin"
    with pytest.raises(ZeroDivisionError), replacing(path, OWN) as sink:
        sink.write(b"half")
        raise ZeroDivisionError
    with pytest.raises(ExecutionError, match="No space left"), replacing(path, OWN) as sink:
        sink.write(b"half")
        sink.error = OSError(28, os.strerror(28))
    assert not list(tmp_path.iterdir())


# --- as an xarray Dataset

WEIGHTS = np.random.default_rng(5).uniform(0.5, 2.0, (3, 14, 14)) * (np.arange(14) != 6) * (np.arange(14) != 6)[:, None]
WEIGHTS = (WEIGHTS + WEIGHTS.swapaxes(1, 2)) / 2
MORE = {"weights": {"weights": WEIGHTS}, "weights of frames": {"frame_weights": np.arange(14.0)}}


@pytest.mark.parametrize("given", (VARIANTS | MORE).values(), ids=VARIANTS | MORE)
@pytest.mark.parametrize("filed", [False, True], ids=["in memory", "in a file"])
def test_a_dataset_gives_everything_back(tmp_path, given, filed):
    data = measured(**given)
    maps = data.to_xarray()
    np.testing.assert_array_equal(maps["c2"], np.swapaxes(maps["c2"].values, 1, 2))
    if filed:  # units, coordinates and attributes can be written
        maps.to_netcdf(tmp_path / "maps.nc", engine="h5netcdf")
        with xr.open_dataset(tmp_path / "maps.nc", engine="h5netcdf", decode_timedelta=False) as file:
            maps = file.load()
    again = homodyne.from_xarray(maps)
    assert_same(again, data)
    assert again.digest() == data.digest()
    assert (again.weights is None) == (data.weights is None)
    if data.weights is not None:
        np.testing.assert_array_equal(again.weights, data.weights)
        assert again.left_out == data.left_out


def test_frames_left_out_by_hand_stay_out_of_a_dataset():
    data = measured()
    fewer = dataclasses.replace(data, alive=data.alive & (np.arange(14) != 6), diagonal=None)
    again = homodyne.from_xarray(fewer.to_xarray())
    assert_same(again, fewer)
    assert again.bad_frames.tolist() == [4, 6]


def test_selections_are_data():
    maps = measured(frames=(101, 114)).to_xarray()
    one = homodyne.from_xarray(maps.isel(map=1, t1=slice(2, None, 3), t2=slice(2, None, 3)))
    assert (one.num_maps, one.num_frames, one.frames, one.phi.tolist()) == (1, 4, (103, 112), [0.0])
    np.testing.assert_allclose([one.dt, one.age_origin], [0.3, 0.2])  # of the ages that are left
    assert one.pixels.tolist() == [51.0]


def test_units_are_read():
    data = measured(gap=2e6)
    maps = data.to_xarray()
    for name, factor, unit in (("t1", 1e3, "ms"), ("t2", 1e3, "ms"), ("dt", 1e3, "ms"), ("age_origin", 1e3, "ms")):
        maps = maps.assign_coords({name: (maps[name].dims, factor * maps[name].values, {"units": unit})})
    maps = maps.assign_coords(q=("map", 10 * data.q, {"units": "1/nm"}), gap=((), 200.0, {"units": "um"}))
    maps = maps.assign_coords(phi=("map", np.deg2rad(data.phi), {"units": "rad"}))
    assert_same(homodyne.from_xarray(maps), data, exact=False)
    assert homodyne.from_xarray(maps).gap == pytest.approx(2e6)


def test_an_own_dataset_needs_maps_ages_q_and_phi():
    data = measured(gap=None, pixels=None, mean_counts=None)
    coordinates = {"t1": data.t, "t2": data.t, "q": ("map", data.q), "phi": ("map", data.phi)}
    own = xr.Dataset({"c2": (("t1", "t2", "map"), np.moveaxis(data.c2, 0, -1))}, coordinates)
    again = homodyne.from_xarray(own)
    assert again.digest() == data.digest()
    assert again.source == {"format": "xarray"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: maps.c2, r"expected an xarray.Dataset, got DataArray.*to_dataset\(name='c2'\)"),
        (lambda maps: maps.drop_vars(["q", "phi"]), "has no q, phi"),
        (lambda maps: maps.rename(map="angle"), "c2 has the dimensions .*expected .*map.*t1.*t2"),
        (lambda maps: maps.assign(alive=maps.alive.any("t1")), "alive has the dimensions"),
        (lambda maps: maps.isel(t1=slice(5)), "select the same frames of both"),
        (lambda maps: maps.assign_coords(q=("map", maps.q.values, {"units": "kg"})), "q is in 'kg'"),
        (lambda maps: maps.assign(c2=maps.c2 > 1), "c2 has dtype bool"),
        (lambda maps: maps.assign(weights=-xr.ones_like(maps.c2)), "weights"),
        (lambda maps: maps.assign_coords(t1=-maps.t1.values, t2=-maps.t2.values), r"t\[0\] = -0.3"),
    ],
)
def test_what_is_no_dataset_of_maps(change, message):
    with pytest.raises(DataError, match=message):
        homodyne.from_xarray(change(measured().to_xarray()))
