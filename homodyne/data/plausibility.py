"""Which numbers are beyond what instruments and samples have: :data:`LIMITS`, one table, and :func:`implausible`.

Numbers outside are used as they are; they are said first, because they are mostly a unit that was meant otherwise.
"""

from dataclasses import dataclass

import numpy as np

from homodyne.data.checks import FloatArray, MapArray
from homodyne.data.twotime import TwoTimeData, each_map


@dataclass(frozen=True)
class Limit:
    """Range of a quantity that is usual, its unit, where the range comes from, and what is mostly wrong outside."""

    name: str
    low: float
    high: float
    unit: str
    source: str
    advice: str


LIMITS = (
    Limit(
        "gap", 1e4, 1e8, "Å", "microfluidic channels of 1 µm to rheometers of 1 cm",
        "is it in Å? 200 µm = 2e6 Å",
    ),
    Limit(
        "q", 1e-5, 1.0, "1/Å", "ultra-small angles (2π / 60 µm) to the first structure peak of simple liquids",
        "is it in 1/Å? 1/nm = 0.1/Å (--unit q=1/nm)",
    ),
    Limit(
        "dt", 1e-7, 3600.0, "s", "pulse trains of free-electron lasers (0.2 µs) to records of days",
        "is it in s? (--unit frame_time=ms)",
    ),
    Limit(
        "contrast", -np.inf, 1.0, "", "intensities of one coherent speckle have a variance of their mean squared",
        "is it c2 = <I I>/<I>²? its diagonal or bad frames may be in it",
    ),
    Limit(
        "baseline", 0.5, 2.0, "", "c2 = <I I>/<I>² goes to 1, and to 2 at most where it has not decayed",
        "is c2 normalised? subtracted maps (g2 - 1) need 1 added",
    ),
    Limit(
        "shear rate times record", -np.inf, 1e4, "", "strain at which a pattern has decorrelated at any q in use",
        "are gap, q and dt in Å, 1/Å and s?",
    ),
)  # fmt: skip
"""What is usual, one row for each quantity."""

_ROWS = {row.name: row for row in LIMITS}
_TYPICAL = 100  # frames of which a level is the mean


def unusual(name: str, values: FloatArray | float | None) -> list[str]:
    """Sentence on the value of a quantity farthest outside its limits; nothing if there is none."""
    row = _ROWS[name]
    found = np.asarray([] if values is None else values, dtype=np.float64).ravel()
    found = found[np.isfinite(found)]
    outside = found[(found < row.low) | (found > row.high)]
    if not outside.size:
        return []
    value = outside[np.argmax(np.abs(outside))] if np.any(outside > row.high) else outside.min()
    limits = f"up to {row.high:g}" if np.isinf(row.low) else f"{row.low:g} to {row.high:g}"
    return [
        f"{row.name} = {value:.4g}{f' {row.unit}' if row.unit else ''} is unusual (expected {limits}: {row.source}); "
        f"{row.advice}"
    ]


def implausible(data: TwoTimeData, gap: float | None = None) -> list[str]:
    """Sentences on what of a measurement is unusual; `gap` (Å) replaces that of the data."""
    weights = data.weights
    maps = (
        one if weights is None else np.where(weights[k] > 0, one, np.nan) for k, one in enumerate(each_map(data.c2))
    )
    levels = np.array([level(one, data.alive[k]) for k, one in enumerate(maps)])
    return implausible_numbers(data.gap if gap is None else gap, data.q, data.dt, levels)


def implausible_numbers(gap: float | None, q: FloatArray | None, dt: float | None, levels: FloatArray) -> list[str]:
    """As `implausible`, of numbers; `levels` (n_maps, 2) as of `level`."""
    baseline = levels[:, 1]
    found = {"gap": gap, "q": q, "dt": dt, "contrast": levels[:, 0] - baseline, "baseline": baseline}
    return [sentence for name, values in found.items() for sentence in unusual(name, values)]


def level(one: MapArray, alive: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[float, float]:
    """Mean of a map beside its diagonal, and at lags above half the record; NaN where there is nothing."""
    n = len(one)
    some = np.arange(0, n // 4 or 1, 1 + n // _TYPICAL)
    beside, far = np.diagonal(one, 1)[alive[1:] & alive[:-1]], one[np.ix_(some, n - 1 - some)]
    far = far[np.ix_(alive[some], alive[n - 1 - some])]
    means = [values[np.isfinite(values)] for values in (beside, far)]
    return tuple(float(np.mean(values, dtype=np.float64)) if values.size else np.nan for values in means)  # type: ignore[return-value]
