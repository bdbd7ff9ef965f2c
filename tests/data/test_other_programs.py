"""Files of other programs, laid out dataset by dataset as their own code writes them.

boost_corr 0.1.6 (c3148aa): xpcs_aps_8idi/xpcs_result.py, hdf_reader.py (put_results_in_hdf5), aps_8idi.py, twotime.py
(calc_normal_twotime, get_twotime_generator). pyXpcsViewer 1.2.2 (952a0bf): gui/control/average_toolbox.py. pyCHX 4.4.2
(aa8a8b9): Create_Report.py (export_xpcs_results_to_h5), chx_correlationc.py (auto_two_Arrayc),
chx_xpcs_xsvs_jupyter_V1.py, where Exdt is filled. Xana 0.7.4 (1f4830d): misc/xsave.py (save_result),
XpcsAna/pyxpcs3.py (pyxpcs, calc_twotime_cf), XpcsAna/eventcorrelator3.py.
"""

import pickle

import h5py
import numpy as np
import pytest

from homodyne.data import describe, from_cube, load
from homodyne.errors import DataError

N, Q, PHI = 14, [0.004, 0.006], [-45.0, 0.0, 45.0]


def correlated(intensity: np.ndarray) -> np.ndarray:
    """<I(t1) I(t2)> / (<I(t1)> <I(t2)>) over the pixels of (frames, pixels), as all these programs define it."""
    mean = intensity.mean(axis=1)
    return intensity @ intensity.T / intensity.shape[1] / np.outer(mean, mean)


@pytest.fixture
def intensities() -> list[np.ndarray]:
    """(frames, pixels) of six regions of 20, 21, ... pixels."""
    rng = np.random.default_rng(5)
    return [rng.poisson(3.0, (N, 20 + k)).astype(np.float64) for k in range(6)]


def regions(intensities) -> np.ndarray:
    """Image of labels 1, 2, ... with as many pixels as the regions have."""
    labels = np.concatenate([np.full(one.shape[1], k + 1) for k, one in enumerate(intensities)])
    return np.append(labels, np.zeros(-labels.size % 16, int)).reshape(16, -1)


def in_file(data, k: int) -> np.ndarray:
    i, j = np.triu_indices(data.num_frames, 1)
    return np.asarray(data.c2[k])[i, j]


def above(one: np.ndarray) -> np.ndarray:
    return one[np.triu_indices(len(one), 1)].astype(np.float32)


@pytest.fixture
def boost_corr(tmp_path, intensities):
    """Write a result of ``boost_corr --type Both``, or of one of the two; bins 2, 3, 5 of a partition of 2 x 3."""

    def write(twotime=True, multitau=True):
        path, bins = tmp_path / "A001_results.hdf", [2, 3, 5]
        settings = {"qmap": "qmap.hdf", "avg_frame": 2, "stride_frame": 3, "begin_frame": 12, "end_frame": -1}
        with h5py.File(path, "w") as file:
            file["/entry/schema_version"] = "0.1"
            file["/entry/instrument/detector_1/frame_time"] = 0.002
            qmap = {"v_list_dim0": Q, "v_list_dim1": PHI, "num_pts": [2, 3], "index_mapping": np.arange(6)}
            for name, value in qmap.items():
                file[f"/xpcs/qmap/dynamic_{name}"] = value
            file["/xpcs/qmap/map_names"], file["/xpcs/qmap/map_units"] = ["q", "phi"], ["1/A", "deg"]
            roi = regions(intensities)
            file["/xpcs/qmap/dynamic_roi_map"], file["/xpcs/qmap/mask"] = (
                roi.astype(np.uint8),
                (roi > 0).astype(np.uint8),
            )
            file["/xpcs/rawdata_path"] = "/raw/A001.h5"
            file["/xpcs/temporal_mean/scattering_2d"] = np.full((1, *roi.shape), 1.5, np.float32)
            file["/xpcs/spatial_mean/intensity_vs_time"] = np.ones((2, 6 * N), np.float32)
            if multitau:
                file["/xpcs/multitau/delay_list"] = np.arange(1, 9)
                file["/xpcs/multitau/normalized_g2"] = np.ones((8, 6), np.float32)
                file["/xpcs/multitau/config/avg_frame"] = 1
            if twotime:
                for name, value in settings.items():
                    file[f"/xpcs/twotime/config/{name}"] = value
                for k, one in enumerate(bins):
                    half = np.triu(correlated(intensities[one - 1])).astype(np.float32)
                    place = f"/xpcs/twotime/correlation_map/c2_{k + 1:05d}"
                    file.create_dataset(place, data=half, compression="lzf", chunks=half.shape)
                file["/xpcs/twotime/normalized_g2"] = np.ones((N, 3), np.float32)
                file["/xpcs/twotime/normalized_g2_segments"] = np.ones((N // 5, 3, 5), np.float32)
                file["/xpcs/twotime/processed_bins"] = np.array(bins)
        return path

    return write


def test_boost_corr(boost_corr, intensities):
    data = load(boost_corr(), q="all")
    assert (data.source["format"], data.q.tolist(), data.phi.tolist()) == ("aps-u", [0.004] * 2 + [0.006], [0, 45, 0])
    for k, one in enumerate((2, 3, 5)):
        np.testing.assert_array_equal(in_file(data, k), above(correlated(intensities[one - 1])))
        np.testing.assert_allclose(data.diagonal[k], np.diag(correlated(intensities[one - 1])), rtol=1e-6)
    np.testing.assert_allclose(data.t, 0.012 * np.arange(1, N + 1))  # 2 ms, two averaged, every third
    assert data.pixels.tolist() == [21, 22, 24]
    assert data.mean_counts.tolist() == [3.0] * 3  # of two frames
    assert describe(boost_corr()).unused[0].startswith("begin_frame = 12:")


def test_averages_of_pyxpcsviewer_hold_the_maps_of_their_first_file_or_none(boost_corr):
    """It copies the first file, and writes averaged g2 into the copy."""
    for twotime in (True, False):
        path = boost_corr(twotime=twotime)
        with h5py.File(path, "r+") as file:
            file["/xpcs/multitau/normalized_g2"][...] = 1.2
        if twotime:
            assert load(path, q=0.006).num_maps == 1
        else:
            with pytest.raises(DataError, match=r"It holds g2 \(/xpcs/multitau\), averages over time"):
                load(path)


@pytest.fixture
def pychx(tmp_path, intensities):
    """Write what pyCHX exports for small angles: images 3 to 16 of 20, of which 0, 1, 2, 7 and 18 are bad."""

    def write(positions=None, change=None, **without):
        path, roi = tmp_path / "uid=ab12_Res.h5", regions(intensities)
        exported = {
            "q_saxs": np.linspace(0.001, 0.01, 50),
            "iq_saxs": np.ones(50),
            "roi_mask": roi,
            "avg_img": np.full(roi.shape, 3.0),
            "mask": roi > 0,
            "pixel_mask": np.ones(roi.shape, int),
            "imgsum": np.ones(20),
            "bad_frame_list": [0, 1, 2, 7, 18],
            "taus": 0.05 * np.arange(8),
            "g2": np.ones((8, 6)),
            "tausb": 0.05 * np.array([0, 1, 2, 3, 4, 6, 8, 10]),
            "g2b": np.ones((8, 6)),
            "g12b": np.moveaxis([correlated(one) for one in intensities], 0, 2),
        }
        with h5py.File(path, "w") as file:
            for key, value in exported.items():
                if key not in without:
                    file.create_dataset(key, data=value)
            if "qval_dict" not in without:
                rings = {k: np.array([0.004 + 0.001 * k]) for k in range(6)}
                for key, value in (rings if positions is None else positions).items():
                    file.require_dataset("qval_dict", (1,), "i").attrs[str(key)] = value
            settings = {"beg": 3, "end": 17, "good_start": 3, "uid": "ab12", "frame_time": 0.025, "wavelength": 1.28}
            file.create_dataset("md", (1,), dtype="i").attrs.update(settings)
            if change is not None:
                change(file)
        return path

    return write


def test_pychx_rings(pychx, intensities):
    found = describe(pychx())
    assert (found.format, found.num_maps, found.dt, found.bad_frames) == ("pychx", 6, 0.05, (8,))  # two images binned
    assert any(one.startswith("phi: a second number in /qval_dict") for one in found.missing)
    assert found.unused == ("masks /pixel_mask",)
    data = load(pychx(), q=[0.006, 0.004], phi=0.0)
    np.testing.assert_allclose(data.t, 0.05 * np.arange(1, N + 1))
    assert (data.frames, data.pixels.tolist(), data.bad_frames.tolist()) == ((4, 17), [22.0, 20.0], [4])
    for k, region in enumerate((2, 0)):
        wanted, marked = correlated(intensities[region]), np.arange(N) == 4
        pairs = ~(marked[:, None] | marked)
        np.testing.assert_array_equal(in_file(data, k)[above(pairs) > 0], above(wanted)[above(pairs) > 0])
    assert data.num_pairs == 2 * 13 * 12 // 2
    scaled = load(pychx(), q=0.0004, phi=0.0, units={"q": "1/nm", "t": "ms"})
    assert (scaled.q.tolist(), scaled.dt) == ([0.0004], pytest.approx(5e-5))


def test_pychx_sectors_have_their_angles(pychx):
    sectors = {k: np.array([Q[k // 3], PHI[k % 3]]) for k in range(6)}
    data = load(pychx(sectors), q="all")
    assert (data.q.tolist(), data.phi.tolist()) == ([0.004] * 3 + [0.006] * 3, PHI * 2)
    with pytest.raises(DataError, match=r"two numbers for a region, and /q_saxs is missing: at grazing incidence"):
        load(pychx(sectors, q_saxs=None))


def test_pychx_lacks_what_must_be_told(pychx):
    with pytest.raises(DataError, match=r"does not state q; give q \(--q\) in 1/Å"):
        load(pychx(qval_dict=None), phi=0.0)
    given = load(pychx(qval_dict=None), q=[0.001 * k for k in range(1, 7)], phi=0.0)
    assert given.num_maps == 6
    with pytest.raises(DataError, match=r"does not state dt \(looked for /tausb\); give dt \(--dt\) in s"):
        load(pychx(tausb=None), q=0.004, phi=0.0)
    assert load(pychx(tausb=None), q=0.004, phi=0.0, dt=0.05).dt == 0.05
    with pytest.raises(DataError, match=r"does not state angles; give phi \(--phi\)"):
        load(pychx(), q=0.004)
    with pytest.raises(DataError, match=r"It holds g2 \(/g2\), averages over time"):
        load(pychx(g12b=None))
    assert any("attribute beg of /md" in one for one in describe(pychx(change=lambda file: file.pop("md"))).missing)


@pytest.mark.parametrize(
    ("positions", "change", "message"),
    [
        ({0: [0.004]}, None, "/qval_dict has no attributes 0 to 5 of one or two numbers each"),
        ({k: [0.004] * (1 + (k == 3)) for k in range(6)}, None, "no attributes 0 to 5"),
        ({k: [0.004] * 3 for k in range(6)}, None, r"attribute 0\) has shape \(3,\) .* expected 2 numbers"),
        ({k: [np.nan] for k in range(6)}, None, "expected finite numbers"),
        (dict.fromkeys(range(6), "0.004"), None, r"attribute 0\) has shape \(\) and dtype object"),
        (None, lambda file: file["md"].attrs.update(beg=[1, 2]), r"/md \(attribute beg\) has shape \(2,\)"),
        (None, lambda file: file["md"].attrs.update(beg=-5), None),
    ],
)
def test_pychx_files_that_are_wrong(pychx, positions, change, message):
    path = pychx(positions, change)
    if message is None:
        assert describe(path).bad_frames == ()
        return
    with pytest.raises(DataError, match=message):
        describe(path)


def test_maps_that_pychx_saves_alone(tmp_path, intensities):
    cube = np.moveaxis([correlated(one) for one in intensities], 0, 2)
    np.save(tmp_path / "uid=ab12_g12b.npy", cube)
    data = load(tmp_path / "uid=ab12_g12b.npy", q=[0.001 * k for k in range(1, 7)], phi=0.0, dt=0.05)
    for k, one in enumerate(intensities):
        np.testing.assert_array_equal(in_file(data, k), above(correlated(one)))


def test_results_of_xana_are_pickles_which_are_not_opened(tmp_path, intensities):
    class Program:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    maps = {k: correlated(intensities[k]).astype(np.float32) for k in (1, 4)}
    for one in maps.values():
        np.fill_diagonal(one, np.diagonal(one, 1).mean())
    result = {"qv": np.linspace(0.04, 0.09, 6), "twotime_par": [1, 4], "twotime_corf": maps}
    result |= {"twotime_xy": np.arange(N) * 0.5, "qroi": Program()}
    path = tmp_path / "xpcs_0000.pkl"
    path.write_bytes(pickle.dumps(result))
    with pytest.raises(DataError, match=r"is a pickle, .* none is opened here. .* its arrays to homodyne.from_cube"):
        load(path)
    assert not tmp_path.joinpath("ran").exists()
    which = result["twotime_par"]  # what the page says
    c2 = np.array([result["twotime_corf"][k] for k in which])
    data = from_cube(c2, 0.5 * np.arange(1, N + 1), phi=0.0, q=result["qv"][which], units={"q": "1/nm"})
    np.testing.assert_allclose(data.q, [0.005, 0.008])
    np.testing.assert_array_equal(in_file(data, 1), above(correlated(intensities[4])))
    assert data.diagonal is None
