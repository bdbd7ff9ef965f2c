"""Writing two-time data: the package's own files, which lose nothing, and the APS-U layout of instruments."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import ArrayLike, NDArray

from homodyne.data import checks
from homodyne.data.checks import FloatArray, MapArray
from homodyne.data.readers import native
from homodyne.data.twotime import TwoTimeData, mark_missing
from homodyne.errors import DataError
from homodyne.files import Sink, replacing

if TYPE_CHECKING:
    import h5py

_SEGMENTS = 5  # pieces of the series for normalized_g2_segments


def save_npz(path: str | Path, data: TwoTimeData) -> None:
    """Write data to an NPZ file from which ``homodyne.load`` returns the same record.

    Raises
    ------
    InputError, ExecutionError
        See :func:`homodyne.files.replacing`.
    """
    with replacing(path) as sink:
        np.savez(sink, allow_pickle=False, **_fields(data))


def save_hdf5(path: str | Path, data: TwoTimeData) -> None:
    """Write data to an HDF5 file from which ``homodyne.load`` returns the same record (see save_npz)."""
    import h5py

    with replacing(path) as sink, h5py.File(sink, "w") as file:
        for name, values in _fields(data).items():
            if name == "c2":
                maps = file.create_dataset(
                    name, values.shape, values.dtype, chunks=(1, *values.shape[1:]), compression="lzf"
                )
                for a in range(len(values)):
                    maps[a] = values[a]
                    sink.require_written()
            else:
                file[name] = values


def _fields(data: TwoTimeData) -> dict[str, NDArray[Any]]:
    gap = np.nan if data.gap is None else data.gap
    fields: dict[str, NDArray[Any]] = {
        native.MARK: np.array(native.VERSION),
        "c2": mark_missing(data.c2, np.tile(data.good, (data.num_angles, 1)), owned=False),
        "t": data.t,
        "phi": data.phi,
        "frames": np.array(data.frames, dtype=np.int64),
        "scalars": np.array([data.q, gap, data.dt, data.age_origin]),
        "source": np.frombuffer(json.dumps(dict(data.source)).encode(), dtype=np.uint8),
    }
    for name in native.OPTIONAL:
        values = getattr(data, name)
        if values is not None:
            fields[name] = values
    return fields


def write_aps_u(
    path: str | Path,
    data: TwoTimeData | Sequence[TwoTimeData],
    *,
    q_list: ArrayLike | None = None,
    phi_list: ArrayLike | None = None,
) -> None:
    """Write data sets of one measurement, one per q, as an APS-U NeXus result file.

    The partition is the grid of all q and all angles; cells without data are empty bins, as in real files.
    The layout has no place for `gap` and `age_origin`: give them again when loading. A detector image with
    the stated number of pixels per bin is made up when `pixels` is known.

    Parameters
    ----------
    path : str or Path
        File to write.
    data : TwoTimeData or sequence of TwoTimeData
        Data with the same dt and number of frames, and ages age_origin + (k + 1) * dt.
    q_list, phi_list : array, optional
        All q (1/Å) and angles (degrees) of the partition, the ones of `data` among them. Default: those of
        `data`.

    Raises
    ------
    DataError
        Data sets that do not belong together.
    InputError, ExecutionError
        See :func:`homodyne.files.replacing`.
    """
    import h5py

    sets = [data] if isinstance(data, TwoTimeData) else list(data)
    _require_one_measurement(sets)
    qs = _axis("q_list", q_list, [one.q for one in sets])
    phis = _axis("phi_list", phi_list, [phi for one in sets for phi in one.phi])
    cells = [
        (int(np.searchsorted(qs, one.q)) * phis.size + int(np.searchsorted(phis, one.phi[a])), one, a)
        for one in sets
        for a in range(one.num_angles)
    ]
    cells.sort(key=lambda cell: cell[0])
    flat = np.array([cell[0] for cell in cells], dtype=np.int64)
    with replacing(path) as sink, h5py.File(sink, "w") as file:
        _write_partition(file, qs, phis, flat)
        _write_detector(file, [(one, a) for _, one, a in cells])
        _write_settings(file, sets[0], flat.size)
        _write_maps(file, [(one, a) for _, one, a in cells], sink)


def _require_one_measurement(sets: list[TwoTimeData]) -> None:
    if not sets:
        raise DataError("data is an empty list; expected at least one data set.")
    first = sets[0]
    if len({one.q for one in sets}) != len(sets):
        raise DataError(f"data holds the same q twice ({[one.q for one in sets]}); expected one data set per q.")
    for one in sets:
        if one.num_frames != first.num_frames or one.dt != first.dt:
            raise DataError(
                f"data sets have {one.num_frames} frames of {one.dt} s and {first.num_frames} of {first.dt} s; "
                "expected frames of one measurement."
            )
        uniform = one.age_origin + one.dt * np.arange(1, one.num_frames + 1)
        if not np.allclose(one.t, uniform, rtol=1e-6, atol=1e-6 * one.dt):
            raise DataError(
                f"t runs from {one.t[0]} to {one.t[-1]} s in uneven steps; expected age_origin + (k + 1) * dt, because "
                "the APS-U layout has no time axis. Use save_npz or save_hdf5."
            )


def _axis(name: str, given: ArrayLike | None, present: Sequence[float]) -> FloatArray:
    """Sorted axis of the partition that contains every value of the data."""
    needed = np.unique(np.asarray(present, dtype=np.float64))
    if given is None:
        return needed
    axis = np.unique(checks.real_vector(name, given))
    if not np.isin(needed, axis).all():
        raise DataError(f"{name} lacks {needed[~np.isin(needed, axis)].tolist()}; expected every value of the data.")
    return axis


def _write_partition(file: "h5py.File", q: FloatArray, phi: FloatArray, flat: NDArray[np.int64]) -> None:
    qmap = file.create_group("/xpcs/qmap")
    qmap["dynamic_v_list_dim0"] = q
    qmap["dynamic_v_list_dim1"] = phi
    qmap["dynamic_num_pts"] = np.array([q.size, phi.size])
    qmap["dynamic_index_mapping"] = flat
    qmap["map_names"] = ["q", "phi"]
    qmap["map_units"] = ["1/Å", "deg"]
    file["/xpcs/twotime/processed_bins"] = np.arange(1, flat.size + 1)


def _write_detector(file: "h5py.File", maps: list[tuple[TwoTimeData, int]]) -> None:
    """Write an image in which every bin has its pixels, and the mean counts of each."""
    if any(one.pixels is None for one, _ in maps):
        return
    pixels = np.array([0.0 if one.pixels is None else one.pixels[a] for one, a in maps])
    if np.any(pixels != np.rint(pixels)):
        raise DataError(f"pixels holds {pixels[pixels != np.rint(pixels)][0]}; expected whole numbers of pixels.")
    labels = np.repeat(np.arange(1, pixels.size + 1), pixels.astype(np.int64))
    width = int(np.ceil(np.sqrt(labels.size)))
    roi = np.zeros((-(-labels.size // width), width), dtype=np.uint16 if pixels.size < 1 << 16 else np.uint32)
    roi.flat[: labels.size] = labels
    file["/xpcs/qmap/dynamic_roi_map"] = roi
    file["/xpcs/qmap/mask"] = (roi > 0).astype(np.uint8)
    if all(one.mean_counts is not None for one, _ in maps):
        counts = [0.0] + [0.0 if one.mean_counts is None else float(one.mean_counts[a]) for one, a in maps]
        file["/xpcs/temporal_mean/scattering_2d"] = np.array(counts, dtype=np.float32)[roi][None]


def _write_settings(file: "h5py.File", data: TwoTimeData, num_bins: int) -> None:
    file["/entry/instrument/detector_1/frame_time"] = data.dt
    config = file.create_group("/xpcs/twotime/config")
    config["stride_frame"] = 1
    config["avg_frame"] = 1
    config["begin_frame"], config["end_frame"] = data.frames
    config["dq_selection"] = np.arange(1, num_bins + 1)


def _write_maps(file: "h5py.File", maps: list[tuple[TwoTimeData, int]], sink: Sink) -> None:
    n = maps[0][0].num_frames
    whole, parts = (np.empty((n, len(maps)), np.float32), np.empty((n // _SEGMENTS, _SEGMENTS, len(maps)), np.float32))
    for k, (data, a) in enumerate(maps):
        one = np.triu(data.c2[a], 1)
        if data.diagonal is not None:
            np.fill_diagonal(one, data.diagonal[a])
        one[~data.good, :] = 0.0
        one[:, ~data.good] = 0.0
        file.create_dataset(f"/xpcs/twotime/correlation_map/c2_{k + 1:05d}", data=one, chunks=(n, n), compression="lzf")
        whole[:, k] = _mean_by_lag(one, data.good)
        for s in range(_SEGMENTS):
            block = slice(s * len(parts), (s + 1) * len(parts))
            parts[:, s, k] = _mean_by_lag(one[block, block], data.good[block])
        sink.require_written()
    file["/xpcs/twotime/normalized_g2"] = whole
    file["/xpcs/twotime/normalized_g2_segments"] = parts


def _mean_by_lag(one: MapArray, good: NDArray[np.bool_]) -> FloatArray:
    """Mean of an upper triangle along each diagonal over finite elements of good frames (NaN: none)."""
    n = len(one)
    padded = np.full((n, 2 * n), np.nan, np.float32)
    padded[:, :n] = one
    padded[:, :n][~good] = np.nan
    padded[:, :n][:, ~good] = np.nan
    row, column = padded.strides
    by_lag = as_strided(padded, (n, n), (row + column, column), writeable=False)  # by_lag[i, k] = one[i, i + k]
    known = np.isfinite(by_lag)
    count = np.count_nonzero(known, axis=0)
    total = np.sum(by_lag, axis=0, where=known, dtype=np.float64)
    return np.asarray(np.divide(total, count, out=np.full(n, np.nan), where=count > 0))
