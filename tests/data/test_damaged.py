"""Files that are missing, damaged, of another kind, or made to do harm: a DataError, never anything else."""

import json
import os
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from homodyne import reading
from homodyne.data import describe, load
from homodyne.errors import DataError

MAP = "/xpcs/twotime/correlation_map/c2_00001"


def replace(path, make):
    """A change of a file: drop what is at `path` and put something else there."""

    def change(file):
        if path in file:
            del file[path]
        make(file, path)

    return change


def put(path, value):
    return replace(path, lambda file, where: file.__setitem__(where, value))


def drop(path):
    return replace(path, lambda file, where: None)


def fails(path, message, **given):
    for action in (load, describe):
        if action is describe and given:
            continue
        with pytest.raises(DataError, match=message) as caught:
            action(path, **given)
        assert caught.value.exit_code == 2
        assert str(path) in str(caught.value)


def test_no_file_at_all(tmp_path):
    fails(tmp_path / "missing.hdf", "does not exist")
    fails(tmp_path, "is a directory")
    (tmp_path / "empty.hdf").touch()
    fails(tmp_path / "empty.hdf", "is empty")
    (tmp_path / "notes.hdf").write_text("q = 0.0054\n")
    fails(tmp_path / "notes.hdf", r"is no HDF5, NPZ or NPY file \(it starts with b'q = 0.00'\)")
    os.mkfifo(tmp_path / "pipe.hdf")
    fails(tmp_path / "pipe.hdf", "not a regular file")


def test_unknown_layouts_say_what_was_looked_for(tmp_path, npz):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["/entry/data/data"] = np.zeros(3)
    fails(
        tmp_path / "other.h5",
        r"not known. Looked for .*aps-u: /xpcs/twotime/correlation_map, /xpcs/qmap \(missing\)",
    )
    fails(tmp_path / "other.h5", "/exchange/C2T_all, .*nxxpcs: /entry/definition = NXxpcs")
    fails(npz(c2_exp=None), r"npz: c2_exp \(missing\)")


@pytest.mark.parametrize("kind", ["aps_u", "npz", "npy"])
@pytest.mark.parametrize("kept", [0.05, 0.3, 0.6, 0.95])
def test_truncated(aps_u, npz, made, tmp_path, kind, kept):
    path = tmp_path / "cube.npy"
    np.save(path, made.cube(2))
    path = {"aps_u": aps_u, "npz": npz, "npy": lambda: path}[kind]()
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    fails(
        path,
        "cannot be read|still being written or copied, or was cut off",
        **({"q": 0.01, "phi": [0.0, 1.0], "dt": 1.0} if kind == "npy" else {}),
    )


def huge(shape, chunks=True):
    """A dataset that declares a size without taking any space."""
    return lambda file, where: file.create_dataset(where, shape, np.float32, chunks=chunks, compression="lzf")


def peak_memory(files):
    """Messages about files that are read in one process, and how far its largest resident set grew with each, bytes."""
    code = """
import json, resource, sys
import h5py, hdf5plugin
from homodyne.config.io import load_config
from homodyne.data import load
from homodyne.errors import InputError
found = []
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load_config(path) if path.endswith("yaml") else load(path, q=0.004)
    except InputError as error:
        found.append((str(error), 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def unwritten(shape, chunks, dtype="u1"):
    """Zeros in chunks of which none is written: a few kilobytes that are many megabytes."""
    return lambda file, where: file.create_dataset(where, shape, dtype, chunks=chunks, compression="gzip")


def npz_with(path, good, **arrays):
    """Put compressed zeros of some shapes into an NPZ file."""
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for member in old.namelist():
            shape = arrays.get(member.removesuffix(".npy"))
            if shape is None:
                new.writestr(member, old.read(member))
                continue
            with new.open(member, "w", force_zip64=True) as stream:
                header = {"descr": "<f8", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
                for _ in range(8 * int(np.prod(shape)) // 10**6):
                    stream.write(bytes(10**6))
    return path


@pytest.mark.slow
def test_small_files_take_little_memory(aps_u, npz, tmp_path):
    files = [
        aps_u(name=f"{path.split('/')[-1]}.hdf", change=replace(path, make))
        for path, make in {
            "/xpcs/qmap/dynamic_v_list_dim0": unwritten((10**9,), (10**6,)),
            "/xpcs/qmap/dynamic_roi_map": unwritten((30_000, 30_000), (10, 30_000)),
            "/xpcs/twotime/config/avg_frame": unwritten((10**9,), (10**6,)),
            MAP: unwritten((12_000, 12_000), (100, 12_000), "f2"),
        }.items()
    ]
    files.append(npz_with(tmp_path / "t.npz", npz(), t1=(5 * 10**7,)))
    files.append(npz_with(tmp_path / "c.npz", npz(), c2_exp=(2, 5000, 5000)))
    for k, text in enumerate(
        (
            "a: [" + "1, " * 300_000 + "]",
            "".join(f"k{k}: 1\n" for k in range(90_000)),
            "[" * 100_000,
            "a: " + "-" * 900_000,
        )
    ):
        files.append(tmp_path / f"{k}.yaml")
        files[-1].write_text(text)
    for (message, grown), file in zip(peak_memory(files), files, strict=True):
        assert str(file) in message
        assert grown < 10 * file.stat().st_size + 200e6


HEADERS = {
    "TokenError": "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), ",
    "RecursionError": "{'descr': '<f8', 'fortran_order': False, 'shape': " + "(" * 4000 + "}",
    "MemoryError": "{'descr': '<f8', 'fortran_order': False, 'shape': " + "-" * 9000 + "1}",
    "negative": "{'descr': '<f8', 'fortran_order': False, 'shape': (-3, 4)}",
    "huge": "{'descr': '<f8', 'fortran_order': False, 'shape': (10**99, 4)}",
    "large": "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 99 + ", 4)}",
    "no dtype": "{'descr': 'spam', 'fortran_order': False, 'shape': (3, 4)}",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_that_raise_anything(npz, tmp_path, header):
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin1")
    (tmp_path / "bad.npy").write_bytes(content)
    fails(tmp_path / "bad.npy", "cannot be read|has shape", q=0.01, phi=0.0, dt=1.0)
    with zipfile.ZipFile(npz()) as good, zipfile.ZipFile(tmp_path / "bad.npz", "w") as bad:
        for member in good.namelist():
            bad.writestr(member, good.read(member) if member != "t1.npy" else content)
    fails(tmp_path / "bad.npz", "cannot be read|array t1")


def test_files_that_are_written_are_called_so(aps_u):
    path = aps_u()
    with h5py.File(path, "r+", locking=True):
        done = subprocess.run(
            [sys.executable, "-c", f"import homodyne\nhomodyne.load({str(path)!r})"], capture_output=True, text=True
        )
    assert "is locked by a program that writes it" in done.stderr
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = np.zeros(3)
    content = bytearray(path.read_bytes())
    content[11] |= 1
    path.write_bytes(content)
    fails(path, "cannot be read|is open for writing by another program")


def outside(file, where):
    file[where] = h5py.ExternalLink("elsewhere.hdf", where)


def raw_outside(file, where):
    file.create_dataset(where, (12, 12), np.float32, external=[("/dev/zero", 0, 576)])


def virtual_outside(file, where):
    layout = h5py.VirtualLayout((12, 12), np.float32)
    layout[...] = h5py.VirtualSource("elsewhere.hdf", where, (12, 12))
    file.create_virtual_dataset(where, layout)


def loop(file, where):
    file["/one"], file["/two"] = h5py.SoftLink("/two"), h5py.SoftLink("/one")
    file[where] = h5py.SoftLink("/one")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace(MAP, huge((10**6, 10**6), (10**3, 10**3))), "would take .* MB, but the file has|has 12 frames"),
        (replace("/xpcs/qmap/dynamic_v_list_dim0", huge((10**12,), (10**6,))), "at most 1000000 numbers"),
        (
            replace("/xpcs/qmap/dynamic_roi_map", huge((10**6, 10**6), (10**3, 10**3))),
            r"mask has shape \(16, 10\); expected \(1000000,",
        ),
        (
            replace(
                MAP,
                lambda f, p: f.create_dataset(p, (12, 12), "f4", chunks=(5000, 5000), maxshape=(None, None)),
            ),
            "chunks",
        ),
        (replace(MAP, outside), "link to another file .*elsewhere.hdf"),
        (replace("/xpcs/qmap", outside), "link to another file"),
        (replace(MAP, raw_outside), "values from another file .*/dev/zero"),
        (replace(MAP, virtual_outside), "values from another file .*elsewhere.hdf"),
        (replace(MAP, loop), "more than 16 links"),
        (replace(MAP, lambda f, p: f.__setitem__(p, h5py.SoftLink("/nowhere"))), "c2_00001 is missing"),
        (put(MAP, np.ones((12, 11), np.float32)), r"shape \(12, 11\).*expected a square map"),
        (put(MAP, np.ones(12, np.float32)), "expected a square map"),
        (put(MAP, np.ones((12, 12), int)), "dtype int64; expected a square map of floating-point"),
        (put(MAP, np.ones((13, 13), np.float32)), "has 12 frames, but .* has 13"),
        (put(MAP, np.ones((2, 2), np.float32)), "has 12 frames, but .* has 2|expected at least 3"),
        (put(MAP, "text"), "expected a square map"),
        (drop(MAP), "holds 8 maps numbered 2 to 9"),
        (drop("/xpcs/twotime/processed_bins"), "/xpcs/twotime/processed_bins is missing"),
        (put("/xpcs/twotime/processed_bins", np.arange(1, 9)), "holds 9 maps, but .* lists 8"),
        (put("/xpcs/twotime/processed_bins", np.arange(9)), r"holds 0..8; expected distinct bins in 1..9"),
        (put("/xpcs/twotime/processed_bins", np.ones(9)), "expected distinct bins"),
        (put("/xpcs/twotime/processed_bins", np.full(9, 1.5)), "expected whole numbers"),
        (put("/xpcs/twotime/processed_bins", np.full(9, 1e300)), "expected whole numbers"),
        (put("/xpcs/twotime/processed_bins", ["a"] * 9), "expected numbers"),
        (drop("/xpcs/qmap/dynamic_v_list_dim1"), "dynamic_v_list_dim1 is missing"),
        (put("/xpcs/qmap/dynamic_num_pts", [4, 3]), r"dynamic_num_pts is \[4, 3\]"),
        (put("/xpcs/qmap/dynamic_index_mapping", np.arange(9) + 9), "distinct cells of a 3 x 4 grid"),
        (put("/xpcs/qmap/dynamic_v_list_dim0", [0.004, np.nan, 0.0071]), r"dim0\[1\] is nan"),
        (put("/xpcs/qmap/dynamic_v_list_dim0", np.ones((2, 2))), r"shape \(2, 2\); expected a list"),
        (
            put("/xpcs/qmap/dynamic_roi_map", np.full((16, 10), 99)),
            "values up to 99; expected an image of bin numbers",
        ),
        (put("/xpcs/qmap/mask", np.ones((2, 2), np.uint8)), r"mask has shape \(2, 2\); expected \(16,"),
        (put("/xpcs/qmap/map_names", ["x", "y"]), r"\['x', 'y'\]; expected a partition in q and phi"),
        (put("/xpcs/qmap/map_units", ["furlong", "deg"]), "'furlong', which is no unit of q .*--unit q=1/nm"),
        (put("/entry/instrument/detector_1/frame_time", 0.0), "frame_time = 0.0"),
        (put("/entry/instrument/detector_1/frame_time", [0.1, 0.2]), "expected at most 1 number"),
    ],
)
def test_aps_u_files_that_cannot_be(aps_u, change, message):
    path = aps_u(change=change)
    with pytest.raises(DataError, match=message) as caught:
        for q in (0.004, 0.0054, 0.0071):
            load(path, q=q)
    assert str(path) in str(caught.value)


def test_links_within_the_file_are_followed(aps_u, made):
    def move(file):
        file.move("/xpcs/qmap", "/partition")
        file["/xpcs/qmap"] = h5py.SoftLink("/partition")
        file.move(MAP, "/xpcs/twotime/first")
        file[MAP] = h5py.SoftLink("/xpcs/twotime/first")

    made.same(load(aps_u(change=move), q=0.004).c2[0], made.upper_map(int(made.CELLS[0])))


def test_a_first_frame_need_not_be_stated(aps_u, made):
    path = aps_u(change=drop("/xpcs/twotime/config/begin_frame"))
    made.same(load(path, q=0.004).c2[0], made.upper_map(int(made.CELLS[0])))


def test_nothing_usable_in_the_maps(aps_u):
    def fill(value):
        def change(file):
            for one in file["/xpcs/twotime/correlation_map"].values():
                one[...] = value

        return change

    with pytest.raises(DataError, match="every element i < j is NaN"):
        load(aps_u(change=fill(np.nan)), q=0.004)
    with pytest.raises(DataError, match="all frames are bad"):
        load(aps_u(change=fill(0.0)), q=0.004)
    with pytest.raises(DataError, match=r"all frames are bad \(132 pairs infinite, in 2 of 2 maps; frames 1, 2"):
        load(aps_u(change=fill(np.inf)), q=0.004)


def test_counts_that_make_no_sense_are_left_out_with_a_note(aps_u):
    data = load(aps_u(change=put("/xpcs/qmap/mask", np.zeros((16, 10), np.uint8))), q=0.0054)
    assert data.pixels is None
    assert "not used: the file gives 0, 0, 0" in data.source["pixels"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("/xpcs/dphilist"), "dphilist is missing"),
        (put("/xpcs/dqlist", np.ones((1, 5))), "has 5 and /xpcs/dphilist 6 values for bins 2..6"),
        (put("/xpcs/qphi_bin_to_process", [7, 3, 5, 2]), "bins 2..7"),
        (put("/xpcs/qphi_bin_to_process", [1, 3, 5, 2]), "bin 1 has no finite q and phi"),
        (put("/xpcs/qphi_bin_to_process", [1, 3]), "holds 4 maps, but .* lists 2"),
        (put("/measurement/instrument/detector/exposure_period", 0.0), "does not state dt"),
    ],
)
def test_8idi_files_that_cannot_be(aps_8idi, change, message):
    with pytest.raises(DataError, match=message):
        load(aps_8idi(change), q=0.01)


def attribute(name, value):
    def change(file):
        attributes = file["/entry/twotime/two_time_corr_func"].attrs
        if value is None:
            del attributes[name]
        else:
            attributes[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (attribute("storage_mode", "other"), r"storage_mode\) is 'other'; expected one of one_array_q_first"),
        (attribute("storage_mode", None), r"storage_mode\) is None"),
        (attribute("baseline_reference", 2), r"baseline_reference\) is '2'; expected one of 0, 1"),
        (attribute("populated_elements", "half"), "'half'; expected one of all"),
        (attribute("time_origin_location", None), "expected one of upper_left"),
        (attribute("storage_mode", "one_array_q_last"), r"expected floating-point maps \(n, n, n_q\)"),
        (attribute("storage_mode", "data_exchange_keys"), "at most 10000 names"),
        (put("/entry/instrument/masks/dynamic_q_list", [0.005]), "holds 3 maps, but .* 1 values"),
        (drop("/entry/instrument/masks/dynamic_q_list"), "dynamic_q_list is missing"),
        (drop("/entry/instrument/masks/dynamic_phi_list"), r"does not state angles; give phi \(--phi\) with 2 values"),
        (drop("/entry/instrument/detector_1/frame_time"), "does not state dt .*<detector>/frame_time"),
        (put("/entry/instrument/detector_2/frame_time", 0.7), "different frame times"),
        (drop("/entry/definition"), "layout that is not known"),
    ],
)
def test_nxxpcs_files_that_cannot_be(nxxpcs, change, message):
    with pytest.raises(DataError, match=message):
        load(nxxpcs(change=change), q=0.005)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c2_exp": np.ones((2, 12, 11))}, r"shape \(2, 12, 11\); expected \(n_phi, n, n\)"),
        ({"c2_exp": np.ones((2, 12, 12), int)}, "dtype int64; expected floating-point"),
        ({"c2_exp": np.asfortranarray(np.random.default_rng(0).random((2, 12, 12)))}, "Fortran order"),
        ({"c2_exp": np.array([{}, {}], dtype=object)}, "expected plain numbers|cannot be read"),
        ({"phi_angles_list": np.array([0.0])}, "expected a vector of 2 values"),
        ({"wavevector_q_list": np.ones(3)}, "expected at most 2 numbers"),
        ({"t2": np.arange(12.0)}, "t1 and t2 differ"),
        ({"t1": np.arange(12.0) ** 2, "t2": np.arange(12.0) ** 2}, "expected uniform, increasing times"),
        ({"t1": np.arange(12.0) - 3, "t2": np.arange(12.0) - 3}, "runs from -3.0"),
        ({"t1": np.arange(5.0)}, "expected a vector of 12 values"),
    ],
)
def test_npz_files_that_cannot_be(npz, change, message):
    with pytest.raises(DataError, match=message):
        load(npz(**change))


def test_nothing_is_unpickled(tmp_path, npz):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    np.save(tmp_path / "evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    fails(tmp_path / "evil.npy", "cannot be read")
    with pytest.raises(DataError):
        load(npz(phi_angles_list=np.array([Evil()], dtype=object)))
    assert not (tmp_path / "harm").exists()


def test_npz_header_that_lies_about_its_size(npz, tmp_path):
    path = npz()
    with zipfile.ZipFile(path) as true, zipfile.ZipFile(tmp_path / "lie.npz", "w") as lie:
        for name in true.namelist():
            lie.writestr(name, true.read(name).replace(b"(2, 12, 12)", b"(2, 98, 98)"))
    fails(tmp_path / "lie.npz", r"shape \(2, 98, 98\) and dtype float64, but 2304 bytes follow")


def test_random_damage_gives_data_or_a_data_error(aps_u, aps_8idi, nxxpcs, npz, monkeypatch):
    monkeypatch.setattr(reading, "SECONDS", 1)
    rng = np.random.default_rng(0)
    outcomes = {"data": 0, "error": 0}
    files = {
        aps_u(): 0.0054,
        aps_8idi(): 0.01,
        nxxpcs(): 0.005,
        npz(): 0.0054,
    }
    for path, q in files.items():
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(60):
            broken = content.copy()
            where = rng.integers(0, content.size, rng.integers(1, 30))
            broken[where] = rng.integers(0, 256, where.size)
            path.write_bytes(broken.tobytes())
            try:
                load(path, q=q)
                outcomes["data"] += 1
            except DataError:
                outcomes["error"] += 1
    assert min(outcomes.values()) > 0
