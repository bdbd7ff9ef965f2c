"""Results survive their file exactly, and no damaged or foreign file becomes a result."""

import json
import subprocess
import sys
import tempfile
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path

import arviz_stats
import h5py
import numpy as np
import pytest
import xarray as xr
from kohlrausch import Kohlrausch

from homodyne.errors import InputError
from homodyne.physics.models.laminar_flow import LaminarFlow
from homodyne.physics.models.static import Static
from homodyne.result.netcdf import seal
from homodyne.result.record import MCMCResult, load_result


def assert_same(one, other):
    for field in fields(MCMCResult):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("samples", "sample_stats"):
            assert a.keys() == b.keys()
            for name in a:
                assert a[name].dtype == b[name].dtype
                np.testing.assert_array_equal(a[name], b[name])
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        elif field.name in ("certificate", "model_class"):
            assert a == b
        else:
            assert json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True), field.name
            assert type(a) is type(b)


@pytest.fixture(params=["laminar", "static", "refused", "waves", "own", "consensus", "generic"])
def any_result(request):
    example = request.getfixturevalue(request.param)
    return getattr(example, "result", example)


@pytest.fixture
def saved(laminar, tmp_path) -> Path:
    return laminar.result.save(tmp_path / "fit.nc")


@pytest.mark.slow
def test_round_trip_is_exact(any_result, tmp_path):
    path = any_result.save(tmp_path / "fit.nc")
    loaded = load_result(str(path), model=any_result.model_class)
    assert_same(any_result, loaded)
    assert str(loaded.summary()) == str(any_result.summary())
    assert [entry.name for entry in tmp_path.iterdir()] == ["fit.nc"]


def test_saving_again_replaces_the_file(laminar, static, saved):
    static.result.save(saved)
    assert_same(load_result(saved, model=Static), static.result)


def test_file_opens_in_xarray_and_arviz(laminar, saved):
    result = laminar.result
    with xr.open_datatree(saved) as tree:
        assert {"posterior", "sample_stats", "constant_data"} <= set(tree.children)
        posterior = tree["posterior"]
        assert posterior["D0"].dims == ("chain", "draw")
        assert posterior["contrast"].dims == ("chain", "draw", "map")
        assert posterior["map"].values.tolist() == ["φ = 0°", "φ = 45°", "φ = 90°"]
        places = tree["constant_data"].coords
        np.testing.assert_array_equal(places["phi"], result.phi)
        np.testing.assert_array_equal(places["q"], np.full(3, 0.0054))
        assert places["q"].dims == places["phi"].dims == ("map",)
        assert posterior["D0"].attrs["units"] == "Å²/s^(1+alpha)"
        assert (places["phi"].attrs["units"], places["q"].attrs["units"]) == ("degree", "1/angstrom")
        np.testing.assert_array_equal(tree["constant_data"]["t"], result.t)
        np.testing.assert_array_equal(tree["constant_data"]["sigma"], result.sigma)
        assert json.loads(tree.attrs["verdict"]) == "CERTIFIED"
        assert json.loads(tree.attrs["certificate"])["k_hat"] == result.certificate.k_hat
        table = arviz_stats.summary(tree, var_names=["alpha", "contrast"], round_to="none")
    assert table.loc["alpha", "mean"] == pytest.approx(result.mean["alpha"])
    assert table.index.tolist() == ["alpha", *(f"contrast[φ = {phi:g}°]" for phi in result.phi)]


def edit(path: Path, change, *, sealed: bool) -> None:
    """Change a result file with HDF5; ``sealed`` forges the checksum, so that later checks are reached."""
    content = BytesIO(path.read_bytes())
    with h5py.File(content, "r+") as file:
        change(file)
    path.write_bytes(seal(content.getvalue()) if sealed else content.getvalue())


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="no result file"):
        load_result(tmp_path / "absent.nc")
    with pytest.raises(InputError, match="no result file"):
        load_result(tmp_path)
    other = BytesIO()
    with h5py.File(other, "w") as file:
        file["c2"] = np.ones((3, 3))
    empty_hdf5 = b"\x89HDF\r\n\x1a\n" + bytes(5000)
    for content in (b"", b"PK\x03\x04 not a result", empty_hdf5, other.getvalue()):
        (tmp_path / "foreign.nc").write_bytes(content)
        with pytest.raises(InputError, match=r"foreign\.nc.*checksum"):
            load_result(tmp_path / "foreign.nc")
        (tmp_path / "foreign.nc").write_bytes(seal(content))
        with pytest.raises(InputError, match=r"foreign\.nc.*its content cannot be read"):
            load_result(tmp_path / "foreign.nc")


def test_truncated_file(saved):
    content = saved.read_bytes()
    for length in (*range(0, len(content), len(content) // 25), len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(InputError, match="checksum"):
            load_result(saved)


def test_any_flipped_bit_is_seen(saved):
    """Among them bits that send HDF5 into an endless loop."""
    content = saved.read_bytes()
    rng = np.random.default_rng(0)
    for place, bit in zip(rng.integers(0, len(content), 300), rng.integers(0, 8, 300), strict=True):
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        saved.write_bytes(damaged)
        with pytest.raises(InputError, match="checksum"):
            load_result(saved)


def test_file_of_another_version(saved):
    saved.write_bytes(saved.read_bytes().replace(b"homodyne result 2 sha256", b"homodyne result 1 sha256"))
    with pytest.raises(InputError, match="this version"):
        load_result(saved)


def next_draw(file: h5py.File) -> None:
    file["posterior/D0"][1, 7] = np.nextafter(file["posterior/D0"][1, 7], np.inf)


def test_change_by_another_program_is_seen(saved):
    edit(saved, next_draw, sealed=False)
    with pytest.raises(InputError, match="checksum"):
        load_result(saved)


def set_attribute(name: str, text: str):
    return lambda file: file.attrs.__setitem__(name, text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_attribute("verdict", '"REFUSED"'), "certificate says"),
        (set_attribute("config", '{"a": '), "JSON"),
        (set_attribute("units", "[]"), "units"),
        (set_attribute("model_options", "[]"), "model_options"),
        (set_attribute("certificate", '{"verdict": "CERTIFIED"}'), "missing"),
        (lambda file: file["posterior"].__delitem__("alpha"), "alpha must have either"),
        (lambda file: file.__delitem__("posterior"), "posterior"),
        (lambda file: file["posterior/D0"].__setitem__((0, 0), np.nan), "not finite"),
    ],
)
def test_contradictory_content_is_refused(saved, change, message):
    edit(saved, change, sealed=True)
    with pytest.raises(InputError, match=message):
        load_result(saved)


_READ = """
import sys
sys.path.insert(0, sys.argv[2])
from homodyne import compare, load_result
result = load_result(sys.argv[1])
print(result.missing_model)
print(result.summary())
compare([result, result])
assert not {"trap", "homodyne.testing.conjugate"} & set(sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["trap:Kohlrausch", "homodyne.testing.conjugate:Kohlrausch"])
def test_what_a_file_names_is_never_imported(own, tmp_path, where):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    path = replace(own.result, analysis_mode=where).save(tmp_path / "fit.nc")
    output = run_python(_READ, path, tmp_path)
    assert output.startswith(f"no curves of the model: the model '{where}' is not")
    assert "load_result(path, model=MyModel)" in output
    assert "\ntau " in output


def test_model_that_is_named_on_reading(own, tmp_path):
    path = replace(own.result, analysis_mode="elsewhere:Kohlrausch").save(tmp_path / "fit.nc")
    assert load_result(path).model is None
    result = load_result(path, model=Kohlrausch)
    assert result.model == Kohlrausch(q_ref=0.004)
    assert result.missing_model == ""
    again = load_result(result.save(tmp_path / "again.nc"))
    assert again.model is None  # the class does not travel
    with pytest.raises(InputError, match=r"Static has the parameters D0, alpha, D_offset, the result tau, gamma"):
        load_result(replace(own.result, model_options={}).save(path), model=Static)
    with pytest.raises(InputError, match="not a subclass"):
        load_result(path, model=dict)


def test_file_may_not_reach_outside_itself(saved, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["D0"] = np.ones((4, 50))
    plain = saved.read_bytes()
    for link in (h5py.ExternalLink("secret.h5", "D0"), h5py.SoftLink("/posterior/alpha")):

        def relink(file, link=link):
            del file["posterior/D0"]
            file["posterior/D0"] = link

        saved.write_bytes(plain)
        edit(saved, relink, sealed=True)
        with pytest.raises(InputError, match="link"):
            load_result(saved)

    def store_elsewhere(file):
        place = [(str(tmp_path / "secret.h5"), 0, 1600)]
        file["posterior"].create_dataset("secret", (4, 50), "f8", external=place)

    saved.write_bytes(plain)
    edit(saved, store_elsewhere, sealed=True)
    with pytest.raises(InputError, match="another file"):
        load_result(saved)


def test_declared_size_is_not_believed(saved):
    def declare(file):
        file["posterior"].create_dataset("bomb", (10**6, 10**6), "f8", chunks=(1000, 1000))

    edit(saved, declare, sealed=True)
    with pytest.raises(InputError, match="declares"):
        load_result(saved)


_FULL_DISK = """
import resource, signal, sys
from homodyne.errors import ExecutionError
from homodyne.result.netcdf import seal
from homodyne.result.record import load_result
result = load_result(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    result.save(sys.argv[1])
except ExecutionError as error:
    print("refused:", error)
"""

_NO_PERMISSION = """
import os, sys
from homodyne.errors import InputError
from homodyne.files import OWN, write_atomically
if os.geteuid() == 0:
    os.setuid(65534)
try:
    write_atomically(sys.argv[1], b"new", OWN)
except InputError as error:
    print("refused:", error)
"""


def run_python(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def test_full_disk_leaves_the_old_file(saved):
    before = saved.read_bytes()
    output = run_python(_FULL_DISK, saved)
    assert "refused:" in output
    assert "fit.nc" in output
    assert saved.read_bytes() == before
    assert [entry.name for entry in saved.parent.iterdir()] == ["fit.nc"]


def test_directory_that_may_not_be_written():
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "old.nc"
        target.write_bytes(b"old")
        Path(place).chmod(0o555)
        assert "refused:" in run_python(_NO_PERMISSION, target)
        assert target.read_bytes() == b"old"
        Path(place).chmod(0o755)


def test_place_that_does_not_exist(laminar, tmp_path):
    for place in (tmp_path / "no" / "fit.nc", tmp_path):
        with pytest.raises(InputError, match="cannot write"):
            laminar.result.save(place)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot write"):
        laminar.result.save(tmp_path / "file" / "fit.nc")


def test_link_is_followed(laminar, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.nc").symlink_to(tmp_path / "real" / "fit.nc")
    laminar.result.save(tmp_path / "link.nc")
    assert (tmp_path / "link.nc").is_symlink()
    assert_same(load_result(tmp_path / "real" / "fit.nc", model=LaminarFlow), laminar.result)


def poison(path, where):
    """Put NaN into a file of HDF5, and seal it again."""

    def change(file):
        values = file[where][...]
        values[(0,) * values.ndim] = np.nan
        file[where][...] = values

    edit(path, change, sealed=True)


@pytest.mark.parametrize(
    "where",
    [
        "posterior/D0",
        "posterior/contrast",
        "sample_stats/lp",
        *(f"constant_data/{n}" for n in ("t", "q", "phi", "sigma")),
    ],
)
def test_a_seal_says_nothing_of_what_has_no_meaning(saved, where):
    poison(saved, where)
    with pytest.raises(InputError, match=rf"fit\.nc.*{where.rpartition('/')[2]}.*(not finite|no log densities)"):
        load_result(saved)


@pytest.mark.parametrize("change", [None, {"k_hat": None}, {"ess": None}])
def test_a_certified_result_has_a_certificate_with_numbers(saved, change):
    def rewrite(file):
        old = json.loads(file.attrs["certificate"])
        file.attrs["certificate"] = json.dumps(None if change is None else {**old, **change})

    edit(saved, rewrite, sealed=True)
    with pytest.raises(InputError, match="without a certificate whose k-hat and ESS are numbers"):
        load_result(saved)
