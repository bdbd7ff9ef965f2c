"""Flip and cut files of every format that is read, and look what comes of it: data, or one kind of error.

    python -m benchmarks.fuzz [ROUNDS] [SEED]

Each round damages one file and reads it. A file that the program has sealed gives what was written or an error, any
other data or an error; what else happens is kept and printed. Not part of the tests: what is found becomes one.
"""

import pickle
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.example_results import example_result
from homodyne import load_result, reading
from homodyne.config.io import load_config
from homodyne.config.template import template
from homodyne.data import describe, from_cube, load, save_hdf5, save_npz, write_aps_u
from homodyne.errors import InputError
from homodyne.optimization.cmc.store import files as store_files
from homodyne.optimization.cmc.store.shards import read_arrays, write_arrays

SECONDS = 60


@dataclass(frozen=True)
class Sample:
    """A file, how it is read, and whether anything but what was written must be an error."""

    path: Path
    read: Callable[[Path], Any]
    sealed: bool = False


def measured(path: Path, **given: Any) -> Any:
    """Everything of a measurement."""
    describe(path) if not given else None
    data = load(path, **given)
    return [data.digest(), *(getattr(data, field.name) for field in fields(data) if field.name not in ("c2", "places"))]


def samples(folder: Path) -> list[Sample]:
    """Small files of each format."""
    rng = np.random.default_rng(0)
    t = 0.1 * np.arange(1, 21)
    maps = np.triu(1.1 + 0.05 * rng.standard_normal((2, 20, 20)))
    data = from_cube(maps, t, [0.0, 90.0], q=0.01, gap=2e6, pixels=50, mean_counts=0.5)
    write_aps_u(folder / "aps_u.h5", data)
    save_hdf5(folder / "own.h5", data)
    save_npz(folder / "own.npz", data)
    np.save(folder / "maps.npy", maps)
    plain = {"wavevector_q_list": [0.01], "phi_angles_list": [0.0, 90.0], "t1": t, "t2": t, "c2_exp": maps}
    np.savez(folder / "plain.npz", **plain)
    np.savez_compressed(folder / "packed.npz", **plain)
    _write_nxxpcs(folder / "nx.h5", maps)
    _write_8idi(folder / "8idi.h5", maps)
    _write_pychx(folder / "chx.h5", maps)
    (folder / "run.yaml").write_text(template("static"))
    example_result(num_frames=30, shape=(2, 20)).result.save(folder / "result.nc")
    arrays = {"samples": rng.standard_normal((2, 9)), "count": np.array(3)}
    (folder / "sealed.npz").write_bytes(store_files.seal(arrays))
    store_files.write_json(folder / "values.json", {"a": [1.5, "text", None], "b": {"c": True}})
    write_arrays(folder / "shard", {"y": rng.standard_normal(50)})

    def packed(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
        return lambda path: pickle.dumps(read(path))

    def shard(path: Path) -> Any:
        return {name: np.array(values) for name, values in read_arrays(path.parent).items()}

    def result(path: Path) -> Any:
        found = load_result(path)
        return [getattr(found, field.name) for field in fields(found)]

    def npy(path: Path) -> Any:
        return measured(path, q=0.01, phi=[0.0, 90.0], dt=0.1)

    foreign = [(name, measured) for name in ("aps_u.h5", "8idi.h5", "nx.h5", "chx.h5", "plain.npz", "packed.npz")]
    foreign += [("maps.npy", npy), ("run.yaml", load_config)]
    own = [
        ("own.h5", measured), ("own.npz", measured), ("result.nc", result), ("sealed.npz", store_files.unseal),
        ("values.json", store_files.read_json), ("shard/y.npy", shard), ("shard/arrays.json", shard),
    ]  # fmt: skip
    return [Sample(folder / name, read) for name, read in foreign] + [
        Sample(folder / name, packed(read), sealed=True) for name, read in own
    ]


def _write_nxxpcs(path: Path, maps: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["/entry/definition"] = "NXxpcs"
        found = file.create_dataset("/entry/twotime/two_time_corr_func", data=maps, compression="gzip")
        found.attrs.update(
            storage_mode="one_array_q_first", time_origin_location="upper_left", populated_elements="all",
            baseline_reference=1,
        )  # fmt: skip
        file["/entry/instrument/detector/frame_time"] = 100.0
        file["/entry/instrument/detector/frame_time"].attrs["units"] = "ms"
        file["/entry/instrument/masks/dynamic_q_list"] = [0.01, 0.01]
        file["/entry/instrument/masks/dynamic_phi_list"] = [0.0, 90.0]


def _write_8idi(path: Path, maps: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for k, one in enumerate(maps):
            file.create_dataset(f"/exchange/C2T_all/g2_{k + 1:05d}", data=one, compression="gzip")
        file["/xpcs/qphi_bin_to_process"] = np.array([[1], [2]], dtype=np.uint64)
        file["/xpcs/dqlist"], file["/xpcs/dphilist"] = np.array([[0.01, 0.01]]), np.array([[0.0, 90.0]])
        file["/measurement/instrument/detector/exposure_period"] = np.array([[0.1]])
        file["/xpcs/avg_frames"], file["/xpcs/stride_frames"] = np.array([[1]]), np.array([[1]])
        file["/xpcs/dqmap"] = np.repeat(np.arange(3), 7).reshape(3, 7).astype(np.uint32)
        file["/xpcs/mask"] = np.ones((3, 7), np.uint8)


def _write_pychx(path: Path, maps: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["g12b"], file["tausb"], file["q_saxs"] = np.moveaxis(maps, 0, 2), 0.1 * np.arange(5), np.ones(3)
        file["roi_mask"], file["bad_frame_list"] = np.repeat(np.arange(3), 7).reshape(3, 7), [0, 5]
        file.create_dataset("qval_dict", (1,), "i").attrs.update({"0": [0.01, 0.0], "1": [0.01, 90.0]})
        file.create_dataset("md", (1,), "i").attrs["beg"] = 2


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bits flipped, bytes replaced, or the end cut off."""
    kind = rng.integers(3)
    if kind == 0:
        return content[: rng.integers(len(content))]
    found = np.frombuffer(content, np.uint8).copy()
    where = rng.integers(0, min(found.size, 4096 if rng.random() < 0.5 else found.size), rng.integers(1, 20))
    found[where] = found[where] ^ (1 << rng.integers(8)) if kind == 1 else rng.integers(0, 256, where.size)
    return found.tobytes()


def outcome_of(sample: Sample, written: Any) -> str:
    """Data, error, or what else came of reading a file."""
    signal.alarm(SECONDS)
    try:
        found = sample.read(sample.path)
    except InputError:
        return "error"
    except Exception as error:  # noqa: BLE001  that is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"[:300]
    finally:
        signal.alarm(0)
    return "other data" if sample.sealed and found != written else "data"


def main() -> int:
    """Run; the exit code says whether anything but data and errors of the kind that is expected came out."""
    rounds, seed = (int(text) for text in (*sys.argv[1:], *("1000", "0")[len(sys.argv) - 1 :]))
    rng, outcomes, wrong = np.random.default_rng(seed), Counter[str](), 0
    reading.SECONDS = 1
    with tempfile.TemporaryDirectory() as name:
        found = samples(Path(name))
        originals = [(sample.path.read_bytes(), sample.read(sample.path)) for sample in found]
        for number in range(rounds):
            sample, (content, written) = found[number % len(found)], originals[number % len(found)]
            broken = damaged(content, rng)
            sample.path.write_bytes(broken)
            outcome = outcome_of(sample, written)
            sample.path.write_bytes(content)
            if broken == content and outcome == "data":
                continue
            outcomes[f"{sample.path.name}: {outcome}"] += 1
            if outcome not in ("data", "error"):
                wrong += 1
                keep = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{number}-{sample.path.name}"
                keep.write_bytes(broken)
                print(f"{keep}: {outcome}", flush=True)
    print(*(f"{name:24s} {count}" for name, count in sorted(outcomes.items())), sep="\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
