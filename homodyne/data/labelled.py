"""Two-time data as an xarray Dataset, with names, units and coordinates: :func:`to_xarray` and :func:`from_xarray`."""

from typing import TYPE_CHECKING, Any

import numpy as np

from homodyne.data import checks
from homodyne.data.checks import MapArray
from homodyne.data.twotime import TwoTimeData, as_float32, assemble, each_map
from homodyne.data.units import Units
from homodyne.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

_UNITS = {"t": "s", "q": "1/angstrom", "phi": "degree", "gap": "angstrom", "dt": "s"}  # as ArviZ and pint read them
_SAME_STEP = 1e-6  # of dt, within which the ages agree with a stated dt and age_origin


def to_xarray(data: TwoTimeData) -> "xr.Dataset":
    """See `TwoTimeData.to_xarray`."""
    import xarray as xr

    shape = (data.num_maps, data.num_frames)
    checks.require_memory(4 * shape[0] * shape[1] ** 2, "The maps in one array", "Select fewer maps or frames.")
    pairs = ("map", "t1", "t2")
    variables: dict[str, object] = {
        "c2": (pairs, _symmetric(data), {"units": "1"}),
        "alive": (pairs[:2], data.alive_before_weights()),
        "diagonal": (pairs[:2], np.full(shape, np.nan) if data.diagonal is None else data.diagonal, {"units": "1"}),
    }
    if data.weights is not None:
        alike = data.weights.strides[0] == 0
        variables["weights"] = (pairs[1:], data.weights[0]) if alike else (pairs, data.weights)
    for name in ("pixels", "mean_counts"):
        if getattr(data, name) is not None:
            variables[name] = ("map", getattr(data, name))
    coordinates = {
        "t1": ("t1", data.t, {"units": _UNITS["t"], "long_name": "age"}),
        "t2": ("t2", data.t, {"units": _UNITS["t"], "long_name": "age"}),
        "frame": ("t1", np.rint(np.linspace(*data.frames, shape[1])).astype(np.int64)),
        "q": ("map", data.q, {"units": _UNITS["q"]}),
        "phi": ("map", data.phi, {"units": _UNITS["phi"]}),
        "dt": ((), data.dt, {"units": _UNITS["dt"]}),
        "age_origin": ((), data.age_origin, {"units": _UNITS["t"]}),
    }
    if data.gap is not None:
        coordinates["gap"] = ((), data.gap, {"units": _UNITS["gap"]})
    return xr.Dataset(variables, coordinates, dict(data.source))


def _symmetric(data: TwoTimeData) -> MapArray:
    """Maps with the pairs i < j on both sides and NaN between them: their raw diagonals stand apart."""
    found = np.empty((data.num_maps, data.num_frames, data.num_frames), np.float32)
    for own, one in zip(found, each_map(data.c2), strict=True):
        own[:] = np.triu(np.asarray(one), 1)
        own += own.T.copy()
        np.fill_diagonal(own, np.nan)
    return found


def from_xarray(maps: "xr.Dataset") -> TwoTimeData:
    """Make a data set from an xarray Dataset: that of `TwoTimeData.to_xarray`, a selection of it, or one's own.

    Parameters
    ----------
    maps : Dataset
        ``c2`` (map, t1, t2), or (t1, t2) for one map, and coordinates ``t1``, ``t2`` (ages, the same), ``q`` and
        ``phi`` (map); optionally ``gap``, ``dt``, ``age_origin``, ``frame`` (t1), ``alive`` (map, t1), ``diagonal``
        (map, t1), ``weights`` (map, t1, t2) or (t1, t2), ``pixels`` and ``mean_counts`` (map), all with the meaning
        that they have in `TwoTimeData`. Attributes ``units`` are read; without, times are in s, q in 1/Å, phi in
        degrees and gap in Å; attributes of the dataset become `source`. `dt` and `age_origin` that the ages contradict,
        as after a selection of frames, are found from the ages. What is no data is found as by `from_cube`.

    Raises
    ------
    DataError
        What is missing, has other dimensions or an unknown unit, and as by `from_cube`.
    """
    import xarray as xr

    if not isinstance(maps, xr.Dataset):
        raise DataError(
            f"expected an xarray.Dataset, got {type(maps).__name__}; of an array, array.to_dataset(name='c2')."
        )
    if missing := [name for name in ("c2", "t1", "t2", "q", "phi") if name not in maps.variables]:
        raise DataError(f"the dataset has no {', '.join(missing)}; expected c2 (map, t1, t2), t1, t2, q and phi.")
    if "map" not in maps.dims:
        maps = maps.expand_dims("map")
    if not np.array_equal(maps["t1"], maps["t2"]):
        raise DataError("t1 and t2 differ; expected the same ages: select the same frames of both.")
    units = Units()

    def number(name: str, quantity: str | None = None, *dims: str) -> Any:
        if name not in maps.variables:
            return None
        own = maps[name].dims
        if not {*dims} - {"map"} <= {*own} <= {*dims}:
            raise DataError(
                f"{name} has the dimensions {own}; expected {dims}, or these without map for all maps alike."
            )
        found = maps[name].transpose(*(dim for dim in dims if dim in own)).values
        stated = maps[name].attrs.get("units") if quantity else None
        return found * units.factor(quantity, stated, name) if quantity else found

    c2, per_frame = number("c2", None, "map", "t1", "t2"), ("map", "t1")
    c2 = c2 if c2.ndim == 3 else c2[None]
    t, q, gap = number("t1", "t", "t1"), number("q", "q", "map"), number("gap", "gap")
    alive, diagonal = number("alive", None, *per_frame), number("diagonal", None, *per_frame)
    if c2.dtype.kind != "f":
        raise DataError(f"c2 has dtype {c2.dtype}; expected floating-point correlation values.")
    dt, origin = _step(checks.ages(t, len(t)), number("dt", "t"), number("age_origin", "t"))
    frame = number("frame", None, "t1")
    draft = TwoTimeData(
        c2=as_float32(c2),
        t=t,
        phi=number("phi", "phi", "map"),
        q=q,
        gap=None if gap is None else float(gap),
        dt=dt,
        alive=np.broadcast_to(True if alive is None else alive.astype(bool), c2.shape[:2]),
        diagonal=None if diagonal is None else np.broadcast_to(diagonal, c2.shape[:2]),
        pixels=number("pixels", None, "map"),
        mean_counts=number("mean_counts", None, "map"),
        age_origin=origin,
        frames=(1, len(t)) if frame is None else (int(frame[0]), int(frame[-1])),
        source={str(name): str(value) for name, value in maps.attrs.items()} or {"format": "xarray"},
    )
    return assemble(draft).weighted(number("weights", None, "map", "t1", "t2"))


def _step(t: checks.FloatArray, dt: Any, origin: Any) -> tuple[float, float]:
    """Time between frames and age before the first: as stated where the ages agree, else from the ages."""
    found = float(np.median(np.diff(t)))
    step = float(dt) if dt is not None and abs(dt - found) <= _SAME_STEP * found else found
    before = float(t[0] - step)
    return step, float(origin) if origin is not None and abs(origin - before) <= _SAME_STEP * step else before
