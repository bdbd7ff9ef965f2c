"""Does the fit agree with its own data? Tests of the residuals under the noise that speckle has: `cross_check`.

Each test asks how much the sum of squares over tiles of age and lag drops when the model is allowed something more
(`homodyne.noise.tile_table`): anything at all, a curve along the lag or the age, parameters for each block of frames or
for one angle.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from homodyne.arguments import Json
from homodyne.arrays import Ages, AnyArray, PerMap
from homodyne.noise.map_view import MapView
from homodyne.noise.speckle_noise import SpeckleNoise
from homodyne.noise.tile_table import Columns, MapTiles, drop_test, reduced, remainder, scaling_columns, tile_table
from homodyne.noise.tiles import BLOCKS

ALARM = 1e-3
"""Probability, if the model is right, below which a test is called a disagreement."""

FRAME_BLOCKS = 4  # blocks of consecutive frames that are compared
_ROWS_LIMIT = 0.3  # correlation of neighbours; the fit takes up a part of it where the decay is slow
_OPPOSITE = 0.05  # degrees
_SAME_Q = 1e-6  # relative difference that is none


class MapPlace(NamedTuple):
    """Wave vector in 1/Å and angle in degrees of a map."""

    q: float
    phi: float


def cross_check(views: Sequence[MapView], noise: SpeckleNoise, q: PerMap, phi: PerMap, t_full: Ages) -> dict[str, Json]:
    """Run all tests of a fit against its data.

    Parameters
    ----------
    views : sequence of MapView
        Maps with the model at the fit.
    noise : SpeckleNoise
        Of every map.
    q, phi : (n_maps,) arrays
        Wave vectors in 1/Å, and angles in degrees.
    t_full : (n,) array
        Ages in s of all frames of the record.

    Returns
    -------
    dict
        Plain values. ``misfit``: p, size (in units of the contrast), chi2 over dof and p of three kinds of misfit;
        ``rows``: correlation of neighbours; ``frames``: blocks of frames against each other for both noises, and the
        one that is most off; ``angles``, ``replicates``: p by map, and of pairs 180 degrees apart; ``tiles``: what
        the figure shows; ``alarms``: a sentence for each test that fails, ``failed``: their names. Empty for
        records of less than 16 frames.
    """
    lags, table = tile_table(views, noise)
    if not any(one.mean.size for one in table):
        return {}
    places = [MapPlace(float(a), float(b)) for a, b in zip(q, phi, strict=True)]
    found: dict[str, object] = {
        "misfit": _misfit(table),
        "rows": _rows(table, noise.counts_source),
        "frames": _frames(table, t_full),
        "angles": _angles(table, places),
        "replicates": _replicates(table, places),
        "tiles": {
            "lag": lags.tolist(),
            "family": [one.family.tolist() for one in table],
            "age": [(one.first + one.second).tolist() for one in table],
            "sd": [(one.mean / np.sqrt(np.diag(one.speckle))).tolist() for one in table],
        },
    }
    alarms = _alarms(found)
    return {**found, "alarms": list(alarms.values()), "failed": list(alarms)}


def _misfit(table: Sequence[MapTiles]) -> dict[str, object]:
    """Anything left, and how large it is beyond the noise in units of the contrast."""
    variance = np.concatenate([np.diag(one.speckle) for one in table])
    mean = np.concatenate([one.mean for one in table])
    scale = np.concatenate([np.full(one.mean.size, one.contrast) for one in table])
    excess = np.sum(mean**2 / variance - 1.0) / max(float(np.sum(scale**2 / variance)), 1e-300)
    return {**_anything(table), "size": float(np.sqrt(max(excess, 0.0)))}


def _anything(table: Sequence[MapTiles]) -> dict[str, object]:
    """Anything left, anything left along the lag, along the age; the last two common to all angles."""

    def lag(one: MapTiles, k: int) -> AnyArray:
        return np.asarray(one.contrast * (one.family[:, None] == np.arange(num_lags)))

    def age(one: MapTiles, k: int) -> AnyArray:
        return np.asarray(one.contrast * ((one.first + one.second)[:, None] == np.arange(2 * BLOCKS)))

    num_lags = 1 + max(int(one.family.max(initial=0)) for one in table)
    rest = remainder(reduced(table, "speckle"))
    tests = {"anywhere": drop_test(rest, (0.0, 0)), "lag": _more(table, rest, lag), "age": _more(table, rest, age)}
    return {"p": min(1.0, len(tests) * min(test["p"] for test in tests.values())), "tests": tests}


def _rows(table: Sequence[MapTiles], source: str) -> dict[str, object]:
    """Mean over the angles of the correlation of neighbours in a row."""
    known = np.array([one.neighbours for one in table if np.isfinite(one.neighbours).all()])
    measured, speckle, error = known.mean(axis=0).tolist() if known.size else (None, None, None)
    error = error and error / len(known) ** 0.5
    return {"measured": measured, "independent": 0.0, "speckle": speckle, "error": error, "counts_source": source}


def _frames(table: Sequence[MapTiles], t: Ages) -> dict[str, object]:
    """Compare consecutive blocks of frames, each with coordinates, offset and contrast of its own."""
    part = BLOCKS // FRAME_BLOCKS
    inside = [one.subset(np.flatnonzero(one.first // part == one.second // part)) for one in table]

    def own(blocks: Sequence[int], of: Callable[[MapTiles], AnyArray]) -> Columns:
        return lambda one, k: np.concatenate([of(one) * (one.first // part == b)[:, None] for b in blocks], axis=1)

    found: dict[str, object] = {}
    for noise in ("independent", "speckle"):
        common = remainder(reduced(inside, noise))
        tests = []
        for blocks in (range(FRAME_BLOCKS), *([b] for b in range(FRAME_BLOCKS))):
            free = reduced(inside, noise, own(blocks, lambda one: one.slopes), own(blocks, scaling_columns))
            tests.append(drop_test(common, remainder(free)))
        found[noise] = tests[0]
    limits = t[np.round(np.linspace(0, t.size - 1, FRAME_BLOCKS + 1)).astype(int)]
    return {**found, "limits": limits.tolist(), "p": [test["p"] for test in tests[1:]]}


def _angles(table: Sequence[MapTiles], places: Sequence[MapPlace]) -> list[dict[str, object]]:
    """Every map, with coordinates of its own, against all others."""
    if len(table) < 2:
        return []
    maps, found = reduced(table, "speckle"), []
    rest = remainder(maps)
    for k, place in enumerate(places):
        both = np.add(remainder(maps[:k] + maps[k + 1 :]), remainder(maps[k : k + 1]))
        found.append({**place._asdict(), "p": drop_test(rest, (float(both[0]), int(both[1])))["p"]})
    return found


def _replicates(table: Sequence[MapTiles], places: Sequence[MapPlace]) -> list[dict[str, object]]:
    """Angles 180 degrees apart see the same decay: their difference in units of the contrast, whatever the model."""
    q, phi = np.array(places).T
    opposite = np.abs(np.abs(phi - phi[:, None]) - 180.0) < _OPPOSITE
    found = []
    for a, b in zip(*np.nonzero(np.triu(opposite & (np.abs(q - q[:, None]) < _SAME_Q * q))), strict=True):
        ids = [(one.family * BLOCKS + one.first) * BLOCKS + one.second for one in (table[a], table[b])]
        _, left, right = np.intersect1d(*ids, return_indices=True)
        if left.size > 2:
            one, two = table[a].subset(left), table[b].subset(right)
            difference = replace(
                one,
                mean=one.mean / one.contrast - two.mean / two.contrast,
                speckle=one.speckle / one.contrast**2 + two.speckle / two.contrast**2,
                slopes=one.slopes[:, :0],
                contrast=1.0,
            )
            found.append({"q": float(q[a]), "phi": [float(phi[a]), float(phi[b])], "p": _anything([difference])["p"]})
    return found


def _alarms(found: dict[str, Json]) -> dict[str, str]:
    """A sentence for every test that fails; p-values of several angles or pairs are multiplied by their number."""
    alarms = {}
    misfit, rows, frames = found["misfit"], found["rows"], found["frames"]
    if misfit["p"] < ALARM:
        worst = min(misfit["tests"], key=lambda kind: misfit["tests"][kind]["p"])
        where = {"anywhere": "", "lag": " along the lag", "age": " along the age"}[worst]
        alarms["misfit"] = (
            f"the model misses the data{where} by about {100 * misfit['size']:.2g} % of the contrast "
            f"({_probability(misfit['p'])}, figure misfit)"
        )
    if rows["measured"] is not None and abs(rows["measured"] - rows["speckle"]) > max(_ROWS_LIMIT, 4 * rows["error"]):
        alarms["rows"] = (
            f"neighbours in a row correlate by {rows['measured']:.2f}, the noise model says {rows['speckle']:.2f}"
        )
    if frames["speckle"]["p"] < ALARM:
        b = int(np.argmin(frames["p"]))
        alarms["frames"] = (
            f"blocks of frames disagree ({_probability(frames['speckle']['p'])}), most the one "
            f"from {frames['limits'][b]:.4g} to {frames['limits'][b + 1]:.4g} s"
        )
    several = len({one["q"] for one in found["angles"]}) > 1
    for name, what in (("angles", "the others"), ("replicates", "each other")):
        off = [one for one in found[name] if one["p"] * len(found[name]) < ALARM]
        if off and several:
            named = (f"q = {one['q']:.4g} 1/Å, phi = {_degrees(one['phi'])} deg" for one in off)
            alarms[name] = f"{'; '.join(named)} disagree with {what}"
        elif off:
            alarms[name] = f"phi = {', '.join(_degrees(one['phi']) for one in off)} deg disagree with {what}"
    return alarms


def _probability(p: float) -> str:
    return f"p = {p:.1g}" if p > 1e-12 else "p < 1e-12"


def _degrees(phi: object) -> str:
    return " and ".join(f"{angle:g}" for angle in phi) if isinstance(phi, list) else f"{phi:g}"


def _more(table: Sequence[MapTiles], rest: tuple[float, int], columns: Columns) -> dict[str, float]:
    """Test of further columns that all angles share."""
    return drop_test(rest, remainder(reduced(table, "speckle", columns)))
