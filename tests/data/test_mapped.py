"""Maps that stay in their files: the same data as when they are read, and no memory for them."""

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from homodyne.data import files, from_cube, load, save_hdf5, save_npz
from homodyne.data.missing import zero_frames
from homodyne.data.readers import hdf5
from homodyne.errors import DataError
from homodyne.likelihood.maps import Maps
from homodyne.likelihood.reduction import pair_values


def plain(file: h5py.File) -> None:
    """Store every map as float32 in one piece."""
    found: list[str] = []
    file.visit(found.append)
    for name in found:
        if (
            isinstance(file[name], h5py.Dataset)
            and name.split("/")[-1].startswith(MAPS)
            and file[name].dtype.kind == "f"
        ):
            values, attributes = file[name][()], dict(file[name].attrs)
            del file[name]
            file[name] = values.astype(np.float32)
            file[name].attrs.update(attributes)


MAPS = ("c2_", "g2_", "two_time", "map_")  # names of datasets with maps start so


def mapped_and_read(path: Path, monkeypatch, **given):
    """What is loaded from a file, mapped and read."""
    read = load(path, **given)
    monkeypatch.setattr(files, "MAPPED_BYTES", 0)
    return load(path, **given), read


def assert_mapped(data, read) -> None:
    assert all(isinstance(one, np.memmap) for one in data.c2)
    assert not any(isinstance(one, np.memmap) for one in read.c2)
    for k in range(read.num_maps):
        np.testing.assert_array_equal(data.usable(k), read.usable(k))
        np.testing.assert_array_equal(data.c2[k][data.usable(k)], read.c2[k][read.usable(k)])
    assert data.num_pairs == read.num_pairs
    assert data.digest() == read.digest()
    np.testing.assert_array_equal(data.alive, read.alive)
    np.testing.assert_array_equal(data.diagonal, read.diagonal)


SELECTIONS = [{"q": "all"}, {"q": 0.005, "frames": (2, 11)}]


@pytest.mark.parametrize("chosen", SELECTIONS, ids=str)
def test_instrument_files(aps_u, aps_8idi, monkeypatch, chosen):
    assert_mapped(*mapped_and_read(aps_8idi(plain), monkeypatch, **chosen))
    monkeypatch.undo()
    assert_mapped(*mapped_and_read(aps_u(change=plain), monkeypatch, **chosen | {"q": (0.005, 0.008)}))


@pytest.mark.parametrize("elements", ["all", "upper_half", "lower_half"])
@pytest.mark.parametrize("origin", ["upper_left", "lower_left"])
@pytest.mark.parametrize("mode", ["one_array_q_first", "data_exchange_keys"])
def test_nxxpcs(nxxpcs, monkeypatch, mode, elements, origin):
    path = nxxpcs(mode, 1, origin, elements, change=plain)
    for chosen in SELECTIONS:
        assert_mapped(*mapped_and_read(path, monkeypatch, **chosen))
        monkeypatch.undo()


@pytest.mark.parametrize(("mode", "baseline"), [("one_array_q_last", 1), ("one_array_q_first", 0)])
def test_nxxpcs_that_has_to_be_read(nxxpcs, monkeypatch, mode, baseline):
    data, read = mapped_and_read(nxxpcs(mode, baseline, change=plain), monkeypatch, q="all")
    assert not isinstance(data.c2, tuple)
    np.testing.assert_array_equal(data.c2, read.c2)


def test_own_files_and_arrays(made, tmp_path, monkeypatch):
    maps, q, phi = made.cube(4), [0.01, 0.01, 0.02, 0.03], [0.0, 90.0, 0.0, 45.0]
    maps[1, 3] = maps[1, :, 3] = 0.0
    data = from_cube(maps, 0.5 * np.arange(1, made.N + 1), phi, q)
    save_hdf5(tmp_path / "own.h5", data)
    np.save(tmp_path / "cube.npy", maps)
    for chosen in ({"q": "all"}, {"q": [0.03, 0.01]}, {"q": [0.01, 0.03], "phi": (0, 45)}):
        found, read = mapped_and_read(tmp_path / "own.h5", monkeypatch, **chosen)
        assert_mapped(found, read)
        assert isinstance(found.c2, tuple) == (chosen["q"] == [0.03, 0.01])  # one array where the order is the file's
        monkeypatch.undo()
        save_hdf5(tmp_path / "again.h5", found)
        save_npz(tmp_path / "again.npz", found)
        assert load(tmp_path / "again.h5", q=chosen["q"]).digest() == read.digest()
        assert load(tmp_path / "again.npz", q=chosen["q"]).digest() == read.digest()
    found, read = mapped_and_read(
        tmp_path / "cube.npy", monkeypatch, q=q, phi=phi, dt=0.5, frames=(2, 11), age_origin=0.5
    )
    assert_mapped(found, read)
    assert found.digest() == load(tmp_path / "own.h5", q="all", frames=(2, 11)).digest() != data.digest()


def test_small_files_are_read(aps_u, made, tmp_path):
    assert isinstance(load(aps_u(change=plain), q="all").c2, np.ndarray)
    np.save(tmp_path / "cube.npy", made.cube(2))
    assert not isinstance(load(tmp_path / "cube.npy", q=0.01, phi=[0, 90], dt=1.0).c2, np.memmap)


@pytest.mark.parametrize("userblock", [0, 1024])
def test_what_can_be_mapped(tmp_path, userblock):
    values = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=userblock) as file:
        file["before"], file["plain"] = np.ones(5), values
        file["double"], file["other order"] = values.astype(np.float64), values.astype(">f4")
        file.create_dataset("chunked", data=values, chunks=(10, 40))
        file.create_dataset("compressed", data=values, compression="gzip")
        file.create_dataset("never written", (40, 40), np.float32)
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((40, 40)), compact)
    with h5py.File(tmp_path / "a.h5") as file:
        found = {name: hdf5.mapped(file[name], name) for name in file if name != "before"}
    np.testing.assert_array_equal(found.pop("plain"), values)
    assert len(found) == 6
    assert set(map(type, found.values())) == {type(None)}


def large(path: Path, n: int, num_maps: int, order: str = "C") -> np.memmap:
    """A cube in a sparse file: correlations at a few lags only, and a dead frame in the second map."""
    maps = np.memmap(path, np.float32, "w+", shape=(num_maps, n, n), order=order)
    rng = np.random.default_rng(1)
    for k, one in enumerate(maps):
        for lag in (1, 2, n // 2):
            i = np.arange(n - lag)
            one[i, i + lag] = 1.0 + 0.1 * rng.random(n - lag)
        if k == 1:
            one[5] = one[:, 5] = np.nan
    maps.flush()
    return maps


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in the memory of this process."""
    blocks = Path("/proc/self/smaps").read_text().split("VmFlags")
    return sum(1024 * int(block.split("\nRss:")[1].split()[0]) for block in blocks if str(path) in block)


@pytest.mark.slow
def test_a_cube_larger_than_memory_is_neither_read_nor_copied(tmp_path):
    n, num_maps = 2000, 6
    large(tmp_path / "cube", n, num_maps)
    maps = np.memmap(tmp_path / "cube", np.float32, "r", shape=(num_maps, n, n))
    t, q = 0.1 * np.arange(1, n + 1), [0.01, 0.02, 0.03]
    tracemalloc.start()
    data = from_cube(maps, t, np.tile([0.0, 90.0], 3), np.repeat(q, 2))
    count, digest = data.num_pairs, data.digest()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.shares_memory(data.c2, maps)
    assert peak < maps[0].nbytes  # 16 MB
    assert resident(tmp_path / "cube") < maps[0].nbytes  # at most what the last map left
    assert count == num_maps * n * (n - 1) // 2 - (n - 1)
    assert data.bad_frames.size == 0
    assert np.argwhere(~data.alive).tolist() == [[1, 5]]
    # planted: a copy is seen
    tracemalloc.start()
    assert from_cube(maps[:, ::-1, ::-1][:, ::-1, ::-1].astype(np.float64)[:2], t, [0.0, 90.0], 0.01).alive[0].all()
    assert tracemalloc.get_traced_memory()[1] > 4 * maps[0].nbytes
    tracemalloc.stop()
    assert digest == replace(data, c2=tuple(maps)).digest()


def test_a_large_file_is_mapped_by_itself(tmp_path):
    n, num_maps = 2000, 5
    maps = large(tmp_path / "cube", n, num_maps)
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["/entry/definition"] = "NXxpcs"
        stored = file.create_dataset("/entry/twotime/two_time_corr_func", maps.shape, np.float32)
        for k, one in enumerate(maps):
            stored[k] = one
        stored.attrs["storage_mode"], stored.attrs["baseline_reference"] = "one_array_q_first", 1
        stored.attrs["time_origin_location"], stored.attrs["populated_elements"] = "upper_left", "upper_half"
        file["/entry/instrument/detector_1/frame_time"] = 0.1
        file["/entry/instrument/masks/dynamic_q_list"] = 0.001 * np.arange(1, num_maps + 1)
        file["/entry/instrument/masks/dynamic_phi_list"] = np.zeros(num_maps)
    tracemalloc.start()
    data = load(tmp_path / "own.h5", q="all")
    assert tracemalloc.get_traced_memory()[1] < maps[0].nbytes
    tracemalloc.stop()
    assert data.wavevectors.size == num_maps
    assert resident(tmp_path / "own.h5") < maps[0].nbytes
    assert data.digest() == from_cube(maps, data.t, data.phi, data.q).digest()


def test_changes_of_a_private_map_are_kept(tmp_path):
    large(tmp_path / "cube", 300, 2)
    maps = np.memmap(tmp_path / "cube", np.float32, "c", shape=(2, 300, 300))
    maps[0, 3, 4] = 7.0
    assert from_cube(maps, np.arange(1.0, 301.0), [0.0, 90.0], 0.01).c2[0, 3, 4] == 7.0


READ = {
    "digest": lambda data, maps: data.digest(),
    "number of pairs": lambda data, maps: data.num_pairs,
    "pairs that are data": lambda data, maps: data.usable(1),
    "frames of zeros": lambda data, maps: zero_frames(data.c2[1]),
    "rows and lags": lambda data, maps: maps.lagged(1, slice(0, 10), slice(1, 5)),
    "centre": lambda data, maps: maps.center,
    "pairs": lambda data, maps: pair_values(maps, np.array([1]), np.array([5])),
}


@pytest.mark.parametrize("read", READ)
def test_a_file_that_was_cut_is_refused_by_name(tmp_path, monkeypatch, read):
    """Planted: without the look at the file this process ends here."""
    monkeypatch.setattr(files, "MAPPED_BYTES", 0)
    np.save(tmp_path / "cube.npy", np.asarray(large(tmp_path / "cube", 300, 2)))
    data = load(tmp_path / "cube.npy", q=0.01, phi=[0.0, 90.0], dt=1.0)
    maps = Maps(data.c2, data.alive, data.t, data.q, data.phi, None)
    size = (tmp_path / "cube.npy").stat().st_size
    with (tmp_path / "cube.npy").open("ab") as stream:
        stream.write(b"more")  # which is none of our business
    READ[read](replace(data), replace(maps))
    os.truncate(tmp_path / "cube.npy", size - 100)
    with pytest.raises(
        DataError, match=rf"cube.npy' was cut while it was in use: it has {size - 100} bytes, {size} were"
    ):
        READ[read](replace(data), replace(maps))


def test_digest_is_of_what_is_used(made):
    maps = made.cube(2)
    data = from_cube(maps, np.arange(1.0, made.N + 1), [0.0, 90.0], 0.01)
    other = maps.copy()
    other[:, range(made.N), range(made.N)] += 1.0
    other += np.tril(other.swapaxes(1, 2), -1)
    assert replace(data, c2=other).digest() == data.digest() == replace(data, c2=tuple(maps)).digest()
    changed = maps.copy()
    changed[1, 3, 4] += 1e-6
    alive = data.alive.copy()
    alive[0, 3] = False
    for change in (
        {"c2": changed},
        {"c2": maps[::-1]},
        {"q": data.q + 1e-9},
        {"t": data.t + 1e-9},
        {"phi": data.phi[::-1]},
        {"alive": alive},
    ):
        assert replace(data, **change).digest() != data.digest()
