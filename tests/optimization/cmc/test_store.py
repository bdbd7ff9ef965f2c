"""The directory of a consensus run: what it refuses, what it survives."""

import dataclasses
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from running import until

from homodyne.cli.program import run as homodyne
from homodyne.errors import ExecutionError, InputError
from homodyne.optimization.cmc.store import lock as store_lock
from homodyne.optimization.cmc.store.files import seal, unseal, write_json
from homodyne.optimization.cmc.store.shards import (
    FORMAT,
    Manifest,
    ShardStore,
    digest_arrays,
    flatten,
    read_arrays,
    write_arrays,
)
from homodyne.optimization.cmc.types import ShardFailure, ShardResult

NAMES = ("D0", "alpha", "D_offset")
CONFIGURATION = {"cmc": {"sharding": {"strategy": "stratified", "num_shards": 3}}, "seed": 1, "bounds": [0.0, None]}
STATS = {"lp": float, "diverging": bool, "num_steps": np.int64}


def manifest(**changes):
    fields = {
        "data": "d" * 64,
        "model": "laminar flow 1",
        "configuration": CONFIGURATION,
        "names": NAMES,
        "points": (10, 11, 12),
        "seed": 42,
        "densities": (-1.5e9, -2.0),
        "setup": {"model": {"q": 0.0054}},
        "versions": {"jax": "1.0"},
    }
    return Manifest(**(fields | changes))


def result(shard_id=0, **changes):
    rng = np.random.default_rng(shard_id)
    chains, draws, size = 2, 5, len(NAMES)
    fields = {
        "shard_id": shard_id,
        "samples": rng.normal(size=(chains, draws, size)),
        "names": NAMES,
        "stats": {name: rng.integers(0, 2, (chains, draws)).astype(kind) for name, kind in STATS.items()},
        "num_points": 10 + shard_id,
        "converged": False,
        "problems": ("R-hat of D0 is 1.2", "μ"),
        "rhat": np.array([1.0, np.nan, 1.2]),
        "ess_bulk": rng.random(size),
        "ess_tail": rng.random(size),
        "divergences": 3,
        "ebfmi": rng.random(chains),
        "num_gradients": 12345678901,
        "attempts": 2,
        "seconds": 1.25,
    }
    return ShardResult(**(fields | changes))


def assert_same(one, two):
    for field in dataclasses.fields(ShardResult):
        left, right = getattr(one, field.name), getattr(two, field.name)
        if field.name == "stats":
            assert left.keys() == right.keys()
            for name, value in left.items():
                assert value.dtype == right[name].dtype
                np.testing.assert_array_equal(value, right[name])
        elif isinstance(left, np.ndarray):
            assert left.tobytes() == right.tobytes()
            assert left.shape == right.shape
        else:
            assert left == right
            assert type(left) is type(right)


def shard(shard_id):
    count = 10 + shard_id
    return {"t": np.linspace(0.0, 1.0, count), "index": np.arange(count, dtype=np.int32), "c2": np.ones((count, 2))}


@pytest.fixture
def store(tmp_path):
    made = ShardStore.create(tmp_path / "run", manifest())
    for shard_id in range(3):
        made.write_shard(shard_id, shard(shard_id))
    made.finish_setup()
    return made


def test_a_result_comes_back_bit_by_bit(store):
    store.write_result(result(1))
    assert_same(store.read_result(1), result(1))
    assert_same(ShardStore.open(store.path).read_result(1), result(1))
    assert store.pending() == [0, 2]
    assert [found.shard_id for found in store.results()] == [1]


def test_a_shard_comes_back_as_memory_maps(store):
    arrays = store.read_shard(2)
    assert sorted(arrays) == ["c2", "index", "t"]
    for name, value in shard(2).items():
        assert isinstance(arrays[name], np.memmap)
        assert arrays[name].dtype == value.dtype
        np.testing.assert_array_equal(arrays[name], value)
        assert not arrays[name].flags.writeable


@given(
    hnp.arrays(
        st.sampled_from(["f8", ">f4", "i2", "u8", "c16", "?"]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
    )
)
def test_any_array_of_numbers_survives(tmp_path_factory, value):
    folder = tmp_path_factory.getbasetemp() / "arrays"
    write_arrays(folder, {"value": value})
    back = read_arrays(folder)["value"]
    assert (back.dtype, back.shape, back.tobytes()) == (value.dtype, value.shape, value.tobytes())
    file = folder / "sealed.bin"
    file.write_bytes(seal({"value": value}))
    back = unseal(file)["value"]
    assert (back.dtype, back.shape, back.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_the_manifest_comes_back(store):
    back = ShardStore.open(store.path).manifest
    assert back.fingerprint == store.manifest.fingerprint
    assert back.setup == {"model": {"q": 0.0054}}
    assert back.configuration["cmc.sharding.strategy"] == "stratified"
    assert back.num_shards == 3


def test_a_result_is_a_plain_npz(store):
    store.write_result(result(0))
    with np.load(store.path / "results/0000.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["samples"], result(0).samples)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"configuration": {**CONFIGURATION, "seed": 2}}, r"configuration key 'seed' \(1 there, 2 here\)"),
        (
            {"configuration": {**CONFIGURATION, "cmc": {"sharding": {"strategy": "random", "num_shards": 3}}}},
            r"'cmc.sharding.strategy' \('stratified' there, 'random' here\)",
        ),
        ({"configuration": {**CONFIGURATION, "extra": None}}, r"'extra' \(absent there, None here\)"),
        ({"data": "e" * 64}, r"data \('dddd.*' there, 'eeee.*' here\)"),
        ({"seed": 43}, r"seed \(42 there, 43 here\)"),
        ({"model": "static 1"}, r"model \('laminar flow 1' there, 'static 1' here\)"),
        ({"points": (10, 11)}, r"points \(\(10, 11, 12\) there, \(10, 11\) here\)"),
        ({"names": ("a", "b", "c")}, r"names \("),
        ({"densities": (-1.5e9, -3.0)}, r"log densities of the model \(\(-1500000000.0, -2.0\) there, .*-3.0\) here"),
        ({"densities": ()}, r"log densities of the model"),
    ],
)
def test_another_run_is_refused_and_told_what_differs(store, changes, named):
    with pytest.raises(InputError, match=named):
        ShardStore.create(store.path, manifest(**changes))


def test_the_same_run_goes_on(store, caplog):
    store.write_result(result(0))
    again = ShardStore.create(store.path, manifest(setup={"other": 1}, densities=(-1.5e9 * (1.0 + 1e-12), -2.0)))
    assert again.ready
    assert again.pending() == [1, 2]
    assert not caplog.records
    assert ShardStore.create(store.path, manifest(versions={"jax": "2.0"})).ready
    assert "draws may differ in rounding" in caplog.text


def test_a_killed_setup_is_done_again(tmp_path):
    first = ShardStore.create(tmp_path, manifest(seed=1))
    first.write_shard(0, shard(0))
    with pytest.raises(InputError, match=r"shards \[1, 2\] .* were not written"):
        first.finish_setup()
    second = ShardStore.create(tmp_path, manifest())
    assert not second.ready
    for shard_id in range(3):
        second.write_shard(shard_id, {"other": np.arange(3.0)})
    second.finish_setup()
    assert second.ready
    assert list(second.read_shard(0)) == ["other"]
    assert sorted(file.name for file in second.shard_path(0).iterdir()) == ["arrays.json", "other.npy"]
    with pytest.raises(InputError, match="another run: different seed"):
        first.ready  # noqa: B018


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(InputError, match=r"not empty \(it holds 'thesis.tex'\)"):
        ShardStore.create(tmp_path, manifest())
    with pytest.raises(InputError, match="has no manifest.json"):
        ShardStore.open(tmp_path)
    with pytest.raises(InputError, match="cannot make the folder"):
        ShardStore.create(tmp_path / "thesis.tex", manifest())


DAMAGES = {
    "truncated": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"x",
    "flipped": lambda content: content[:300] + bytes([content[300] ^ 1]) + content[301:],
    "noise": lambda content: b"\x00" * 2000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_counts_as_missing(store, damage, caplog):
    store.write_result(result(0))
    file = store.path / "results/0000.npz"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert store.pending() == [0, 1, 2]
    assert "0000.npz counts as missing" in caplog.text
    assert not file.exists()
    assert file.with_name("0000.npz.corrupt").exists()
    store.write_result(result(0))
    assert_same(store.read_result(0), result(0))


def test_every_flipped_bit_of_a_result_is_seen(store):
    store.write_result(result(0))
    file = store.path / "results/0000.npz"
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*rng.integers(0, len(content), 60), *range(len(content) - 70, len(content), 3)]:
        file.write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.integers(8))]) + content[place + 1 :])
        assert store.read_result(0) is None
    file.write_bytes(content)
    assert_same(store.read_result(0), result(0))


def test_a_foreign_result_counts_as_missing(store, tmp_path, caplog):
    other = ShardStore.create(tmp_path / "other", manifest(seed=7))
    for shard_id in range(3):
        other.write_shard(shard_id, shard(shard_id))
    other.finish_setup()
    other.write_result(result(0))
    os.replace(other.path / "results/0000.npz", store.path / "results/0000.npz")
    assert store.read_result(0) is None
    assert "it belongs to another run" in caplog.text
    store.write_result(result(1))
    os.replace(store.path / "results/0001.npz", store.path / "results/0002.npz")
    assert store.read_result(2) is None
    assert "it belongs to shard 1" in caplog.text


def test_a_sealed_file_of_something_else_counts_as_missing(store, caplog):
    file = store.path / "results/0000.npz"
    file.write_bytes(seal({"head": np.frombuffer(b'{"a": 1}', np.uint8)}))
    assert store.read_result(0) is None
    file.write_bytes(seal({"samples": np.zeros(3)}))
    assert store.read_result(0) is None
    assert caplog.text.count("it is not the result of a shard") == 2


def sealed(path, npy):
    """A file with a right checksum around a member that is wrong."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(npy, "x.npy")
        archive.comment = b"0" * 64
    content = path.read_bytes()[:-64]
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    return path


def test_a_lying_header_takes_no_memory(tmp_path):
    folder = write_arrays(tmp_path / "shard", {"x": np.zeros(4)})
    npy = folder / "x.npy"
    assert read_arrays(folder)
    assert unseal(sealed(tmp_path / "honest.npz", npy))
    npy.write_bytes(npy.read_bytes().replace(b"'shape': (4,), }" + b" " * 12, b"'shape': (4000000000000,), }"))
    with pytest.raises(InputError, match="has 160 bytes, float64 .* needs 32000000000128"):
        read_arrays(folder)
    with pytest.raises(InputError, match="has 160 bytes, float64 .* needs 32000000000128"):
        unseal(sealed(tmp_path / "lying.npz", npy))


def test_pickles_are_never_read(tmp_path):
    file = tmp_path / "x.npy"
    write_arrays(tmp_path, {"x": np.zeros(1)})
    np.save(file, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="holds object, expected numbers"):
        read_arrays(tmp_path)
    with pytest.raises(InputError, match="holds numbers only"):
        write_arrays(tmp_path, {"x": np.array([print], dtype=object)})
    with pytest.raises(InputError, match="holds object, expected numbers"):
        unseal(sealed(tmp_path / "made.npz", file))


def flip(file, place):
    """Turn over one bit of a file."""
    content = bytearray(file.read_bytes())
    content[place] ^= 64
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["t.npy", "index.npy", "c2.npy", "arrays.json"])
def test_a_flipped_bit_of_a_shard_is_seen_wherever_it_is_read_and_the_file_is_named(store, name):
    file, rng = store.shard_path(1) / name, np.random.default_rng(0)
    content = file.read_bytes()
    for place in rng.integers(0, len(content), 40):
        flip(file, place)
        for read in (lambda: store.read_shard(1), lambda: read_arrays(store.shard_path(1))):
            with pytest.raises(InputError, match=f"0001.{file.stem}"):
                read()
        file.write_bytes(content)
    assert store.read_shard(1)


def test_a_flipped_bit_of_the_manifest_is_seen(store):
    file = store.path / "manifest.json"
    content, rng = file.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(0, len(content), 100):
        flip(file, place)
        with pytest.raises(InputError, match=r"manifest\.json"):
            ShardStore.open(store.path)
        file.write_bytes(content)


def test_shards_in_each_others_place_are_refused(store):
    first, second = store.shard_path(0), store.shard_path(1)
    os.replace(first, store.path / "other")
    os.replace(second, first)
    os.replace(store.path / "other", second)
    with pytest.raises(InputError, match=r"0000/arrays\.json' is missing, damaged or of another run"):
        store.read_shard(0)
    with pytest.raises(InputError, match="0001' is not the folder that was written"):
        read_arrays(second)


@pytest.mark.parametrize("how", ["truncated", "lost", "added", "retyped"])
def test_a_damaged_shard_is_refused(store, how):
    folder = store.shard_path(1)
    if how == "truncated":
        os.truncate(folder / "t.npy", 150)
    elif how == "lost":
        (folder / "t.npy").unlink()
    elif how == "added":
        np.save(folder / "u.npy", np.zeros(3))
    else:
        np.save(folder / "t.npy", np.zeros(11, dtype=np.float32))
    with pytest.raises(InputError, match="0001.*(cannot be used|is damaged|is not the folder)"):
        store.read_shard(1)
    assert store.read_shard(0)


@pytest.mark.parametrize("bad", [-1, 3, "0001", "../../x", 1.0, True])
def test_shards_are_numbers(store, bad):
    with pytest.raises(InputError, match="shard"):
        store.read_result(bad)
    with pytest.raises(InputError, match="shard"):
        store.read_shard(bad)


@pytest.mark.parametrize("name", ["../x", "", "a b", "1a", "x" * 200, ".hidden"])
def test_array_names_are_identifiers(store, name):
    with pytest.raises(InputError, match="letters, digits and underscores"):
        store.write_shard(0, {name: np.zeros(1)})


@pytest.mark.parametrize(
    "changes",
    [
        {"names": ("a", "b", "c")},
        {"num_points": 11},
        {"samples": np.zeros((2, 5, 2))},
        {"samples": np.zeros((2, 5, 3), dtype=np.float32)},
        {"stats": {"lp": np.zeros((2, 4))}},
        {"rhat": np.zeros(2)},
        {"ebfmi": np.zeros(3)},
        {"samples": np.full((2, 5, 3), np.nan)},
        {"converged": True},
    ],
)
def test_a_result_that_does_not_fit_is_not_written(store, changes):
    with pytest.raises(InputError, match="shard 0"):
        store.write_result(result(0, **changes))
    assert store.pending() == [0, 1, 2]


def test_failures_are_kept_until_the_shard_succeeds(store, caplog):
    store.write_failure(ShardFailure(0, "killed by signal 9 (SIGKILL)", 2))
    store.write_failure(ShardFailure(2, "R-hat is 3.1", 1))
    assert ShardStore.open(store.path).failures() == [
        ShardFailure(0, "killed by signal 9 (SIGKILL)", 2),
        ShardFailure(2, "R-hat is 3.1", 1),
    ]
    store.write_result(result(0))
    assert [failure.shard_id for failure in store.failures()] == [2]
    for content in (b"{", b"[1]", b'{"shard_id": 2}', b"[" * 100_000, b" " * (2**20 + 1)):
        (store.path / "failures/0002.json").write_bytes(content)
        assert store.failures() == []
    assert caplog.text.count("counts as missing") == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"[]", "holds no mapping"),
        (b"{}", "its SHA-256 is wrong"),
        ({"format": "homodyne consensus store 99"}, "use the version of homodyne that wrote it"),
        ({"format": FORMAT}, "cannot be used as a manifest"),
    ],
)
def test_a_manifest_that_is_none(store, content, message):
    if isinstance(content, bytes):
        (store.path / "manifest.json").write_bytes(content)
    else:
        write_json(store.path / "manifest.json", content)
    with pytest.raises(InputError, match=message):
        ShardStore.open(store.path)


def test_a_manifest_changed_by_hand_is_refused(store):
    file = store.path / "manifest.json"
    entries = json.loads(file.read_text())
    entries["configuration"]["cmc.sharding.num_shards"] = 4
    file.write_text(json.dumps(entries))
    with pytest.raises(InputError, match=r"manifest\.json' is damaged or was changed by hand"):
        ShardStore.open(store.path)
    del entries["sha256"]
    write_json(file, entries)
    with pytest.raises(InputError, match="its fingerprint does not fit its content"):
        ShardStore.open(store.path)


def test_only_plain_values_are_stored(tmp_path):
    with pytest.raises(InputError, match="only plain values"):
        manifest(configuration={"x": object()}).fingerprint  # noqa: B018
    with pytest.raises(InputError, match="needs shards and names"):
        manifest(points=())


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": {}}) == {"a.b.c": 1, "a.d": [1, {"e": 2}], "f": {}}


def test_the_digest_sees_names_types_shapes_and_values():
    base = {"a": np.arange(6.0), "b": np.arange(3)}
    assert digest_arrays(base) == digest_arrays(dict(reversed(base.items())))
    others = [
        {"a": np.arange(6.0), "c": np.arange(3)},
        {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(3)},
        {"a": np.arange(6.0), "b": np.arange(3).astype(np.int32)},
        {"a": np.nextafter(np.arange(6.0), 9.0), "b": np.arange(3)},
    ]
    assert len({digest_arrays(arrays) for arrays in [base, *others]}) == 5


HOLDER = """
import sys, time
from pathlib import Path
from homodyne.optimization.cmc.store.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_coordinator_at_a_time(store, caplog):
    with subprocess.Popen([sys.executable, "-c", HOLDER, store.path / "lock"], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            message = f"in use by process {holder.pid} on {socket.gethostname()}"
            with pytest.raises(ExecutionError, match=message), store.lock():
                pytest.fail("two coordinators")
        finally:
            holder.kill()
    with store.lock(), pytest.raises(ExecutionError, match=f"process {os.getpid()}"), store.lock():
        pytest.fail("two coordinators")
    assert f"taking over {store.path / 'lock'} from process {holder.pid}" in caplog.text
    caplog.clear()
    with store.lock():
        pass
    assert not caplog.records


def test_a_lock_of_another_machine_is_given_up_by_hand_when_it_is_silent(store, capsys, monkeypatch):
    monkeypatch.setattr(store_lock, "BEAT", 0.01)
    lock, unlock = store.path / "lock", ["unlock", str(store.path)]
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with (
        pytest.raises(ExecutionError, match=f"process 1 on elsewhere.*run: homodyne unlock {store.path}"),
        store.lock(),
    ):
        pass
    assert homodyne(unlock) == 4
    assert "gave a sign of life" in capsys.readouterr().err
    past = lock.stat().st_mtime - store_lock.STALE - 1.0
    os.utime(lock, (past, past))
    with pytest.raises(ExecutionError, match="process 1 on elsewhere"), store.lock():
        pass
    assert homodyne(unlock) == 0
    assert capsys.readouterr().out == "the lock of process 1 on elsewhere is given up\n"
    assert homodyne(unlock) == 0
    assert "nobody holds" in capsys.readouterr().out
    with store.lock():
        assert homodyne(unlock) == 4  # it lives, here
    assert lock.read_bytes() == b""


@pytest.mark.parametrize("hours", [-9, 9])
@pytest.mark.parametrize("alive", [True, False])
def test_a_clock_that_was_set_says_nothing_of_a_holder(store, capsys, monkeypatch, hours, alive):
    """The clock of the file system is hours ahead of the last touch, or behind it."""
    lock = store.path / "lock"
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    touched = lock.stat().st_mtime - 3600.0 * hours
    os.utime(lock, (touched, touched))
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if alive:
            os.utime(lock)

    monkeypatch.setattr(store_lock, "time", SimpleNamespace(sleep=sleep))
    assert homodyne(["unlock", str(store.path)]) == (4 if alive else 0)
    assert ("It gives signs of life" in capsys.readouterr().err) == alive
    assert waits == [2 * store_lock.BEAT]


def test_a_holder_from_before_a_restart_of_the_machine(store, monkeypatch):
    """Or on another machine of the same name, which still gives signs of life."""
    monkeypatch.setattr(store_lock, "BEAT", 0.01)
    lock = store.path / "lock"
    lock.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "boot": "another"}))
    with pytest.raises(ExecutionError, match="If that process has died"), store.lock():
        pass
    past = lock.stat().st_mtime - store_lock.STALE - 1.0
    os.utime(lock, (past, past))
    with store.lock():
        assert json.loads(lock.read_text())["boot"] != "another"


def test_a_holder_touches_its_lock_and_notices_when_it_has_lost_it(store, monkeypatch, caplog):
    monkeypatch.setattr(store_lock, "BEAT", 0.01)
    lock = store.path / "lock"
    with store.lock():
        os.utime(lock, (1.0, 1.0))
        until(lambda: lock.stat().st_mtime > 1.0)
        other = json.dumps({"pid": 1, "host": "elsewhere"})
        lock.write_text(other)
        until(lambda: "was taken over by another process" in caplog.text)
    assert lock.read_text() == other  # it is not ours to give up


def test_a_damaged_lock_file_is_nobodys(store):
    (store.path / "lock").write_bytes(b"\xff{")
    with store.lock():
        pass
