"""Flip and cut files of every format that is read, and look what comes of it: data, or one kind of error.

    python benchmarks/fuzz.py [ROUNDS] [SEED]

Each round damages one file and loads it in a process of its own, which an alarm ends where it hangs. Not part of the
tests: what is found becomes one. Signals (SIGSEGV, SIGALRM) are those of the HDF5 library: strings of variable length
in a damaged heap make it crash or loop.
"""

import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np

from homodyne.config.io import load_config
from homodyne.config.template import template
from homodyne.data import describe, from_cube, load, save_hdf5, save_npz, write_aps_u
from homodyne.errors import InputError

SECONDS = 10


def files(folder: Path) -> dict[Path, dict[str, object]]:
    """One small file of each format, and the arguments with which it is loaded."""
    rng = np.random.default_rng(0)
    t = 0.1 * np.arange(1, 21)
    maps = np.triu(1.1 + 0.05 * rng.standard_normal((2, 20, 20)))
    data = from_cube(maps, t, [0.0, 90.0], q=0.01, gap=2e6, pixels=50, mean_counts=0.5)
    write_aps_u(folder / "aps_u.h5", data)
    save_hdf5(folder / "own.h5", data)
    save_npz(folder / "own.npz", data)
    np.save(folder / "maps.npy", maps)
    fields = {"wavevector_q_list": [0.01], "phi_angles_list": [0.0, 90.0], "t1": t, "t2": t, "c2_exp": maps}
    np.savez(folder / "plain.npz", **fields)
    np.savez_compressed(folder / "packed.npz", **fields)
    with h5py.File(folder / "nx.h5", "w") as file:
        file["/entry/definition"] = np.bytes_("NXxpcs")
        found = file.create_dataset("/entry/twotime/two_time_corr_func", data=maps, compression="gzip")
        options = {
            "storage_mode": "one_array_q_first",
            "time_origin_location": "upper_left",
            "populated_elements": "all",
        }
        found.attrs.update({name: np.bytes_(value) for name, value in options.items()}, baseline_reference=1)
        file["/entry/instrument/detector/frame_time"] = 100.0
        file["/entry/instrument/detector/frame_time"].attrs["units"] = np.bytes_("ms")
        file["/entry/instrument/masks/dynamic_q_list"] = [0.01, 0.01]
        file["/entry/instrument/masks/dynamic_phi_list"] = [0.0, 90.0]
    (folder / "run.yaml").write_text(template("static"))
    npy = {"q": 0.01, "phi": [0.0, 90.0], "dt": 0.1}
    return {path: npy if path.suffix == ".npy" else {} for path in sorted(folder.iterdir())}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bits flipped, bytes replaced, or the end cut off."""
    kind = rng.integers(3)
    if kind == 0:
        return content[: rng.integers(len(content))]
    found = np.frombuffer(content, np.uint8).copy()
    where = rng.integers(0, min(found.size, 4096 if rng.random() < 0.5 else found.size), rng.integers(1, 20))
    found[where] = found[where] ^ (1 << rng.integers(8)) if kind == 1 else rng.integers(0, 256, where.size)
    return found.tobytes()


def outcome_of(path: Path, arguments: dict[str, object]) -> str:
    """Data, error, or what else came of reading a file in a process of its own: an exception, or a signal."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        try:
            if path.suffix == ".yaml":
                load_config(path)
            else:
                load(path, **arguments)
                describe(path)
            said = "data"
        except InputError:
            said = "error"
        except Exception as error:  # noqa: BLE001  that is what is looked for
            said = f"{type(error).__name__}: {error}"[:300]
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    status = os.waitpid(child, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else said


def main() -> int:
    """Run; the exit code says whether anything but data and errors of the kind that is expected came out."""
    rounds, seed = (int(text) for text in (*sys.argv[1:], *("1000", "0")[len(sys.argv) - 1 :]))
    rng, outcomes, wrong = np.random.default_rng(seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        for number in range(rounds):
            if number % 500 == 0:
                found = files(Path(name))
                originals = {path: path.read_bytes() for path in found}
            path = list(found)[number % len(found)]
            content = damaged(originals[path], rng)
            path.write_bytes(content)
            outcome = outcome_of(path, found[path])
            outcomes[f"{path.name}: {outcome}"] += 1
            if outcome not in ("data", "error"):
                wrong += 1
                keep = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{number}-{path.name}"
                keep.write_bytes(content)
                print(f"{keep}: {outcome}", flush=True)
            path.write_bytes(originals[path])
    print(*(f"{name:24s} {count}" for name, count in sorted(outcomes.items())), sep="\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
