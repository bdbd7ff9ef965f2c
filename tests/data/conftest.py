"""Small files as instruments and other software write them, made by hand with h5py and NumPy."""

from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

N = 12
Q = np.array([0.004, 0.0054, 0.0071])
PHI = np.array([-30.0, 0.0, 45.0, 90.0])
EMPTY = (0, 3, 6)  # cells of the 3 x 4 grid without pixels, so that bin - 1 is not the cell
CELLS = np.setdiff1d(np.arange(12), EMPTY)


def upper_map(seed: int, n: int = N) -> np.ndarray:
    """A noisy upper triangle with a raw diagonal and zeros below."""
    rng = np.random.default_rng(seed)
    one = np.triu(rng.normal(1.1, 0.05, (n, n)))
    np.fill_diagonal(one, rng.normal(3.0, 0.2, n))
    return one.astype(np.float32)


def cube(num_maps: int, n: int = N, seed: int = 0) -> np.ndarray:
    return np.array([upper_map(100 * seed + k, n) for k in range(num_maps)])


def assert_same_pairs(one: np.ndarray, two: np.ndarray) -> None:
    i, j = np.triu_indices(one.shape[-1], 1)
    np.testing.assert_array_equal(one[..., i, j], two[..., i, j])


@pytest.fixture
def aps_u(tmp_path: Path):
    """Write an APS-U file; cell c of the grid has the map upper_map(c). `bins` are the processed ones."""

    def write(bins=range(1, CELLS.size + 1), change=None, mapping=CELLS, name="aps_u.hdf") -> Path:
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for k, bin_number in enumerate(bins):
                file.create_dataset(
                    f"/xpcs/twotime/correlation_map/c2_{k + 1:05d}",
                    data=upper_map(int(CELLS[bin_number - 1])),
                    chunks=(N, N),
                    compression="lzf",
                )
            file["/xpcs/twotime/processed_bins"] = np.array(list(bins))
            for key, value in {
                "avg_frame": 2,
                "stride_frame": 3,
                "begin_frame": 1,
                "smooth": "sqmap",
            }.items():
                file[f"/xpcs/twotime/config/{key}"] = value
            file["/entry/definition"] = "NXxpcs"
            file["/entry/instrument/detector_1/frame_time"] = np.array([[0.01]], dtype=np.float32)
            qmap = file.create_group("/xpcs/qmap")
            qmap["dynamic_v_list_dim0"], qmap["dynamic_v_list_dim1"] = Q, PHI
            qmap["dynamic_num_pts"] = np.array([Q.size, PHI.size])
            qmap["dynamic_index_mapping"] = mapping
            qmap["map_names"], qmap["map_units"] = ["q", "phi"], ["1/A", "deg"]
            roi = np.repeat(np.arange(CELLS.size + 1), 10 + np.arange(CELLS.size + 1)).astype(np.uint8)
            roi = np.append(roi, np.zeros(-roi.size % 16, np.uint8)).reshape(16, -1)
            mask = np.ones(roi.shape, np.uint8)
            mask.flat[np.flatnonzero(roi.flat == 2)[:5]] = 0
            qmap["dynamic_roi_map"], qmap["mask"] = roi, mask
            file["/xpcs/temporal_mean/scattering_2d"] = (0.1 * roi).astype(np.float32)[None]
            if change is not None:
                change(file)
        return path

    return write


@pytest.fixture
def aps_8idi(tmp_path: Path):
    """Write an 8-ID-I file with the bins 2, 3, 5, 6: two at each of two q; map k is upper_map(k)."""

    def write(change=None) -> Path:
        path = tmp_path / "8idi.hdf"
        with h5py.File(path, "w") as file:
            for k in range(4):
                file.create_dataset(f"/exchange/C2T_all/g2_{k + 1:05d}", data=upper_map(k), compression="gzip")
            file["/xpcs/qphi_bin_to_process"] = np.array([[6], [3], [5], [2]], dtype=np.uint64)
            file["/xpcs/dqlist"] = np.array([[np.nan, 0.005, 0.005, 0.01, 0.01, 0.01]])
            file["/xpcs/dphilist"] = np.array([[0.0, 10.0, 20.0, 0.0, 10.0, 20.0]])
            file["/measurement/instrument/detector/exposure_period"] = np.array([[0.5]])
            file["/xpcs/avg_frames"], file["/xpcs/stride_frames"] = np.array([[1]]), np.array([[2]])
            file["/xpcs/dqmap"] = np.repeat(np.arange(7), 5).reshape(5, 7).astype(np.uint32)
            file["/xpcs/mask"] = np.ones((5, 7), np.uint8)
            if change is not None:
                change(file)
        return path

    return write


@pytest.fixture
def nxxpcs(tmp_path: Path):
    """Write an NXxpcs file of three maps, upper_map(0..2), in any storage mode, baseline and orientation."""

    def write(mode="one_array_q_first", baseline=1, origin="upper_left", elements="upper_half", change=None) -> Path:
        path, maps = tmp_path / "nx.h5", cube(3).astype(np.float64)
        if baseline == 0:
            maps[np.triu(np.ones(maps.shape, bool))] -= 1.0
        if elements == "all":
            maps = maps + np.triu(maps, 1).swapaxes(1, 2)
        elif elements == "lower_half":
            maps = maps.swapaxes(1, 2)
        if origin == "lower_left":
            maps = maps[:, ::-1]
        with h5py.File(path, "w") as file:
            file["/entry/definition"] = "NXxpcs"
            if mode == "data_exchange_keys":
                for k, one in enumerate(maps):
                    file[f"/entry/twotime/map_{k}"] = one
                file["/entry/twotime/two_time_corr_func"] = [f"map_{k}" for k in range(3)]
            else:
                stored = np.moveaxis(maps, 0, -1) if mode == "one_array_q_last" else maps
                file["/entry/twotime/two_time_corr_func"] = stored
            attributes = file["/entry/twotime/two_time_corr_func"].attrs
            attributes["storage_mode"], attributes["baseline_reference"] = mode, baseline
            attributes["time_origin_location"], attributes["populated_elements"] = origin, elements
            file["/entry/instrument/detector_1/count_time"] = 0.09
            file["/entry/instrument/detector_1/frame_time"] = 100.0
            file["/entry/instrument/detector_1/frame_time"].attrs["units"] = "ms"
            masks = file.create_group("/entry/instrument/masks")
            masks["dynamic_roi_map"] = np.array([[0, 1, 1], [2, 3, 3], [3, 3, 2]])
            masks["dynamic_q_list"], masks["dynamic_phi_list"] = [0.005, 0.005, 0.01], [0.0, 30.0, 0.0]
            masks["dynamic_q_list"].attrs["units"] = "1/angstrom"
            if change is not None:
                change(file)
        return path

    return write


@pytest.fixture
def npz(tmp_path: Path):
    """Write an NPZ file of two maps."""

    def write(**change) -> Path:
        path, t = tmp_path / "data.npz", 0.2 * np.arange(N)
        fields = {
            "wavevector_q_list": np.array([0.0054]),
            "phi_angles_list": np.array([0.0, 90.0]),
            "t1": t,
            "t2": t,
            "c2_exp": cube(2).astype(np.float64),
        }
        np.savez(path, **{key: value for key, value in (fields | change).items() if value is not None})
        return path

    return write


def real_map() -> np.ndarray:
    """The measured map next to the checkout, or one made like it: noise, low contrast, replaced diagonal."""
    file = Path(__file__).parents[2].parent / "shared" / "data" / "two_time_map_350.npy"
    if file.is_file():
        return np.load(file)
    n = 350
    rng = np.random.default_rng(350)
    lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    one = np.triu(1.03 + 0.06 * np.exp(-lag / 100) + 0.074 * rng.standard_normal((n, n)), 1)
    one += one.T
    beside = np.diagonal(one, 1)
    filled = np.append(np.insert((beside[:-1] + beside[1:]) / 2, 0, 0.0), 0.0)
    filled[0], filled[-1] = filled[1], filled[-2]
    np.fill_diagonal(one, filled)
    return one


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """What the files above are made of."""
    return SimpleNamespace(N=N, Q=Q, PHI=PHI, CELLS=CELLS, upper_map=upper_map, cube=cube, same=assert_same_pairs)


@pytest.fixture(scope="session")
def real() -> np.ndarray:
    return real_map()
