"""Writing two-time data: the package's own files, which lose nothing, and the APS-U layout of instruments."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import ArrayLike, NDArray

from homodyne.data import checks
from homodyne.data.checks import FloatArray, MapArray
from homodyne.data.readers import native
from homodyne.data.twotime import TwoTimeData, each_map, require_data
from homodyne.errors import DataError
from homodyne.files import MEASUREMENT, Sink, replacing
from homodyne.mapping import intact

_SEGMENTS = 5  # pieces of the series for normalized_g2_segments


def save_npz(path: str | Path, data: TwoTimeData) -> None:
    """Write data to an NPZ file from which ``homodyne.load`` returns the same record.

    Raises
    ------
    InputError, ExecutionError
        See `homodyne.files.replacing`.
    """
    require_data(data)
    if isinstance(data.c2, tuple):
        size = 4 * data.num_maps * data.num_frames**2
        checks.require_memory(size, "The maps in one array", "Use save_hdf5, which writes them one by one.")
    with replacing(path, MEASUREMENT) as sink:
        np.savez(sink, allow_pickle=False, **_fields(data))


def save_hdf5(path: str | Path, data: TwoTimeData) -> None:
    """Write data to an HDF5 file from which ``homodyne.load`` returns the same record (see save_npz).

    Maps are written as plain numbers, so that they need not be read into memory to be loaded.
    """
    require_data(data)
    with _hdf5_file(path) as (file, sink):
        for name, values in _fields(data).items():
            if name == "c2":
                shape = (data.num_maps, data.num_frames, data.num_frames)
                maps = file.create_dataset(name, shape, np.float32)
                for k, one in enumerate(each_map(data.c2)):
                    maps[k] = one
                    sink.require_written()
            else:
                file[name] = values


@contextmanager
def _hdf5_file(path: str | Path) -> Iterator[tuple[h5py.File, Sink]]:
    """HDF5 file to write, and what it is written to; behind its end stands what tells it from others."""
    with replacing(path, MEASUREMENT) as sink:
        with h5py.File(sink, "w") as file:
            yield file, sink
        sink.seek(0, os.SEEK_END)
        sink.write(MEASUREMENT.mark)


def _fields(data: TwoTimeData) -> dict[str, Any]:
    gap = np.nan if data.gap is None else data.gap
    fields = {
        native.MARK: np.array(native.VERSION),
        "c2": data.c2,
        "t": data.t,
        "phi": data.phi,
        "q": data.q,
        "alive": data.alive_before_weights().astype(np.uint8),  # the weights say the rest
        "frames": np.array(data.frames, dtype=np.int64),
        "scalars": np.array([gap, data.dt, data.age_origin]),
        "source": np.frombuffer(json.dumps(dict(data.source)).encode(), dtype=np.uint8),
    }
    for name in native.OPTIONAL:
        values = getattr(data, name)
        if values is not None:
            fields[name] = values
    each = [each_map(data.c2)]
    if data.weights is not None:
        alike = data.weights.strides[0] == 0
        weights = data.weights[:1] if alike else data.weights
        fields["weights"] = weights
        each.append(each_map(weights))
    beside = {name: np.asarray(values) for name, values in fields.items() if name not in native.MAPS}
    return {**fields, native.SEAL: native.digests(beside, chain(*each))}


def write_aps_u(
    path: str | Path, data: TwoTimeData, *, q_list: ArrayLike | None = None, phi_list: ArrayLike | None = None
) -> None:
    """Write a measurement as an APS-U NeXus result file.

    The partition is the grid of all q and all angles; cells without data are empty bins, as in real files.
    The layout has no place for `gap` and `age_origin`: give them again when loading. A detector image with
    the stated number of pixels per bin is made up when `pixels` is known.

    Parameters
    ----------
    path : str or Path
        File to write.
    data : TwoTimeData
        Data with ages age_origin + (k + 1) * dt.
    q_list, phi_list : array, optional
        All q (1/Å) and angles (degrees) of the partition, the ones of `data` among them. Default: those of
        `data`.

    Raises
    ------
    DataError
        Weights, uneven ages, a list that lacks a value, or pixels that are not whole numbers.
    InputError, ExecutionError
        See `homodyne.files.replacing`.
    """
    require_data(data)
    if data.weights is not None:
        raise DataError("the data have weights, for which the APS-U layout has no place; use save_npz or save_hdf5.")
    uniform = data.age_origin + data.dt * np.arange(1, data.num_frames + 1)
    if not np.allclose(data.t, uniform, rtol=1e-6, atol=1e-6 * data.dt):
        raise DataError(
            f"t runs from {data.t[0]} to {data.t[-1]} s in uneven steps; expected age_origin + (k + 1) * dt, because "
            "the APS-U layout has no time axis. Use save_npz or save_hdf5."
        )
    qs, phis = _axis("q_list", q_list, data.q), _axis("phi_list", phi_list, data.phi)
    cells = np.searchsorted(qs, data.q) * phis.size + np.searchsorted(phis, data.phi)
    order = np.argsort(cells)
    with _hdf5_file(path) as (file, sink):
        _write_partition(file, qs, phis, cells[order])
        _write_detector(file, data, order)
        _write_settings(file, data)
        _write_maps(file, data, order, sink)


def _axis(name: str, given: ArrayLike | None, present: FloatArray) -> FloatArray:
    """Sorted axis of the partition that contains every value of the data."""
    needed = np.unique(present)
    if given is None:
        return needed
    axis = np.unique(checks.real_vector(name, given))
    if not np.isin(needed, axis).all():
        raise DataError(f"{name} lacks {needed[~np.isin(needed, axis)].tolist()}; expected every value of the data.")
    return axis


def _write_partition(file: h5py.File, q: FloatArray, phi: FloatArray, flat: NDArray[np.int64]) -> None:
    qmap = file.create_group("/xpcs/qmap")
    qmap["dynamic_v_list_dim0"] = q
    qmap["dynamic_v_list_dim1"] = phi
    qmap["dynamic_num_pts"] = np.array([q.size, phi.size])
    qmap["dynamic_index_mapping"] = flat
    qmap["map_names"] = ["q", "phi"]
    qmap["map_units"] = ["1/Å", "deg"]
    file["/xpcs/twotime/processed_bins"] = np.arange(1, flat.size + 1)


def _write_detector(file: h5py.File, data: TwoTimeData, order: NDArray[np.intp]) -> None:
    """Write an image in which every bin has its pixels, and the mean counts of each."""
    if data.pixels is None:
        return
    pixels = data.pixels[order]
    if np.any(pixels != np.rint(pixels)):
        raise DataError(f"pixels holds {pixels[pixels != np.rint(pixels)][0]}; expected whole numbers of pixels.")
    labels = np.repeat(np.arange(1, pixels.size + 1), pixels.astype(np.int64))
    width = int(np.ceil(np.sqrt(labels.size)))
    roi = np.zeros((-(-labels.size // width), width), dtype=np.uint16 if pixels.size < 1 << 16 else np.uint32)
    roi.flat[: labels.size] = labels
    file["/xpcs/qmap/dynamic_roi_map"] = roi
    file["/xpcs/qmap/mask"] = (roi > 0).astype(np.uint8)
    if data.mean_counts is not None:
        counts = np.append(0.0, data.mean_counts[order]).astype(np.float32)
        file["/xpcs/temporal_mean/scattering_2d"] = counts[roi][None]


def _write_settings(file: h5py.File, data: TwoTimeData) -> None:
    file["/entry/instrument/detector_1/frame_time"] = data.dt
    file["/entry/instrument/detector_1/frame_time"].attrs["units"] = "s"
    config = file.create_group("/xpcs/twotime/config")
    config["stride_frame"] = 1
    config["avg_frame"] = 1
    config["begin_frame"], config["end_frame"] = data.frames
    config["dq_selection"] = np.arange(1, data.num_maps + 1)


def _write_maps(file: h5py.File, data: TwoTimeData, order: NDArray[np.intp], sink: Sink) -> None:
    n, count = data.num_frames, data.num_maps
    whole, parts = np.empty((n, count), np.float32), np.empty((n // _SEGMENTS, _SEGMENTS, count), np.float32)
    for number, k in enumerate(order):
        alive = data.alive[k]
        one = np.triu(intact(data.c2[k]), 1)
        if data.diagonal is not None:
            np.fill_diagonal(one, data.diagonal[k])
        one[~alive, :] = one[:, ~alive] = 0.0
        name = f"/xpcs/twotime/correlation_map/c2_{number + 1:05d}"
        file.create_dataset(name, data=one, chunks=(n, n), compression="lzf")
        whole[:, number] = _mean_by_lag(one, alive)
        for s in range(_SEGMENTS):
            block = slice(s * len(parts), (s + 1) * len(parts))
            parts[:, s, number] = _mean_by_lag(one[block, block], alive[block])
        sink.require_written()
    file["/xpcs/twotime/normalized_g2"] = whole
    file["/xpcs/twotime/normalized_g2_segments"] = parts


def _mean_by_lag(one: MapArray, alive: NDArray[np.bool_]) -> FloatArray:
    """Mean of an upper triangle along each diagonal over finite elements of frames with data (NaN: none)."""
    n = len(one)
    padded = np.full((n, 2 * n), np.nan, np.float32)
    padded[:, :n] = one
    padded[:, :n][~alive] = np.nan
    padded[:, :n][:, ~alive] = np.nan
    row, column = padded.strides
    by_lag = as_strided(padded, (n, n), (row + column, column), writeable=False)  # by_lag[i, k] = one[i, i + k]
    known = np.isfinite(by_lag)
    count = np.count_nonzero(known, axis=0)
    total = np.sum(by_lag, axis=0, where=known, dtype=np.float64)
    return np.asarray(np.divide(total, count, out=np.full(n, np.nan), where=count > 0))
