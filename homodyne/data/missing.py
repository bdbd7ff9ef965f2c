"""What of a map is no measurement, decided here for every door: :func:`examine`.

A pair of frames is left out where its value is

- NaN, infinite, or masked by the user;
- impossible: farther from the median than 1e4 times the spread (standard deviation of the central 98 % of the values).
  The largest value that intensities can make is a coincidence with a frame of one photon, sqrt(pixels) spreads away;
- repeated: exactly one number, which measured values hardly ever are, but what software writes where nothing was
  measured is (0, 1, -1, -9999, 1e30, ...), and so is the limit at which others were cut off. A number counts as
  repeated if it is there at 10 pairs or more, and ten times as often as any of the eight values next to it towards the
  median and as all but the commonest values of the map; for a number with no other within 8 spreads three pairs are
  enough, and three times as many as its neighbours have and as other values have on average. And it does if it fills
  most of the pairs of some frames and is hardly anywhere else. Where photons are few all values repeat, and none stands
  out.

Two kinds of repeated numbers are measurements. Zero (-1 where 1 was subtracted) is what pairs without a coincidence
have: with a share p of them the mean number of coincidences is m = -log p, and the others scatter by
sqrt((1 + m)(1 - p)/m - 1) of their mean (Poisson distribution without its zero); where values scatter nearly that
much zeros stay. Where another constant was added, the least value of a map is the same, if it does not fill frames and
the next values lie about one coincidence above it, while a limit that cuts others off has values right beside it. And a
number towards which values pile up, as those of a law without noise do where it has decayed, is where that law ends.

A frame is left out where no pair is left, or where all that are left are zero and its diagonal does not show counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from homodyne.arrays import evenly
from homodyne.data.checks import BoolArray, FloatArray, MapArray, listed
from homodyne.mapping import changeable, intact, mapping_of

KINDS = {
    "masked": "masked",
    "weight": "of weight zero",
    "nan": "NaN",
    "infinite": "infinite",
    "impossible": "too far from all others",
    "constant": "in frames of one constant number",
    "saturated": "exactly the largest or smallest value",
    "repeated": "exactly one number that repeats",
    "zeros": "zero, in frames without counts",
    "marked": "in frames that the file marks as bad",
}
"""Why pairs were left out, and how that is said."""

FAR = 1e4
"""Distance from the median, in spreads, beyond which a value is impossible."""

ROWS = 256
"""Rows handled at once, so that temporaries stay small next to a map."""

COINCIDENCE = (0.0, -1.0)
"""What a pair without a coincidence has, also after 1 was subtracted; see `_gap_above_least` for other constants."""

_SAMPLE, _PARTNERS = 1 << 18, 64  # pairs looked at for repeated values; with how many frames each frame is looked at
_OFTEN, _TWICE = 10, 3  # pairs that make a number a repeated one, and one that is alone
_ALONE = 8.0  # spreads around it without another value
_NEIGHBOURS = 8  # values that are compared with it, and commonest ones of a map that are not
_FEW = 8  # values of a frame that do not show their scatter
_SCATTER = 0.5  # of that of coincidences, above which zeros are some
_GAP, _BESIDE = 0.2, 0.02  # of a coincidence, within which another value is beside; how many are, of pairs without one


@dataclass(frozen=True)
class LeftOut:
    """Pairs of one map that are no data, for one reason.

    Attributes
    ----------
    map : int
        Number of the map, from 0.
    kind : str
        One of ``KINDS``.
    pairs : int
        Number of pairs i < j.
    frames : tuple of int
        Frames (0-based, within the selection) of which no pair is left, mostly for this reason.
    value : float or None
        The number that these pairs hold.
    """

    map: int
    kind: str
    pairs: int
    frames: tuple[int, ...] = ()
    value: float | None = None


@dataclass(frozen=True, eq=False)
class Examined:
    """What is data of a map: its values, NaN at single pairs left out; frames with data; what was left out and why."""

    values: MapArray
    alive: BoolArray
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, eq=False)
class _Rules:
    """What is no measurement: values below `low` or above `high`, and `repeated` ones.

    A repeated value may be that of no coincidence: it has a number for every frame then, and pairs whose numbers have a
    product of 1 or more are left. `limits` are the least and the largest of the other values, `spread` is theirs.
    """

    repeated: dict[float, FloatArray | None]
    low: float = -np.inf
    high: float = np.inf
    limits: tuple[float, float] = (-np.inf, np.inf)
    spread: float = 0.0

    def numbers(self, strip: MapArray, rows: slice) -> Iterator[tuple[str | float, BoolArray]]:
        """Yield "impossible" and every repeated value, and the elements from the first diagonal one on that are it."""
        impossible = np.isfinite(strip) & ((strip < self.low) | (strip > self.high))
        for value, kept in self.repeated.items():
            where = strip == np.float32(value)
            impossible &= ~where
            if kept is not None:
                where &= kept[rows, None] * kept[rows.start :] < 1
            yield value, where
        yield "impossible", impossible

    def kind(self, value: float, pairs: int, frames: int, n: int) -> str:
        """Kind of a repeated value that some pairs hold, all those of some frames among them."""
        if frames and 2 * frames * (n - 1) - frames * (frames - 1) >= 1.8 * pairs:
            return "constant"
        low, high = self.limits
        beyond = low - self.spread < value < low or high < value < high + self.spread
        return "saturated" if beyond and self.repeated[value] is None else "repeated"


def examine(one: MapArray, diagonal: FloatArray | None = None, number: int = 0) -> Examined:
    """Find what is data of the elements i < j of a map, in one pass where all of it is.

    Parameters
    ----------
    one : array, (n, n) float32
        Elements i < j of a map; never changed.
    diagonal : array (n,), optional
        Raw c2(t, t): a frame of zeros with a positive one had counts.
    number : int
        Of the map, for the records.
    """
    n = len(one)
    partners = evenly(n, max(_PARTNERS, _SAMPLE // n))
    sample, low, high = _survey(one, partners)
    rules = _rules(sample, partners)
    empty = np.all((sample == 0) | np.isnan(sample), axis=1)
    possible = bool(np.isfinite(low) and np.isfinite(high)) and rules.low <= low and high <= rules.high
    if possible and not rules.repeated and not empty.any():
        return Examined(one, np.ones(n, dtype=bool))
    counts: dict[str | float, NDArray[np.int64]] = {}
    for rows, strip, later in upper_strips(one):
        reasons = (("nan", np.isnan(strip)), ("infinite", np.isinf(strip)), ("zeros", strip == 0))
        for reason, where in (*reasons, *rules.numbers(strip, rows)):
            found = counts.setdefault(reason, np.zeros(n, dtype=np.int64))
            where &= later
            if where.any():
                found[rows] += np.count_nonzero(where, axis=1)
                found[rows.start :] += np.count_nonzero(where, axis=0)
    zeros = counts.pop("zeros") - counts.get(0.0, 0)
    left = n - 1 - np.sum(list(counts.values()), axis=0)
    lit = np.zeros(n, dtype=bool) if diagonal is None else diagonal > 0
    dark = (left > 0) & (zeros == left) & ~(lit & (2 * left >= n - 1))
    alive = (left > 0) & ~dark
    numbers = any(found.any() for reason, found in counts.items() if reason not in ("nan", "infinite"))
    values = _without(one, rules, left > 0) if numbers else one
    return Examined(values, alive, tuple(_records(one, number, counts, zeros, alive, rules)))


def _survey(one: MapArray, partners: NDArray[np.intp]) -> tuple[MapArray, float, float]:
    """Pairs of every frame with some, (n, partners); least and largest value of all pairs, NaN where one is NaN."""
    n = len(one)
    sample = np.full((n, partners.size), np.nan, np.float32)
    low, high = np.inf, -np.inf
    for rows, strip, later in upper_strips(one):
        height = len(strip)
        ahead = np.flatnonzero(partners >= rows.start)
        columns = partners[ahead] - rows.start
        sample[rows, ahead] = np.where(later[:, columns], strip[:, columns], np.nan)
        for k in ahead[columns < height]:
            here = partners[k] - rows.start
            sample[partners[k] + 1 :, k] = strip[here, here + 1 :]
        for values in (strip[:, :height][later[:, :height]], strip[:, height:]):
            if values.size:
                low, high = float(np.minimum(low, values.min())), float(np.maximum(high, values.max()))
    return sample, low, high


def _rules(sample: MapArray, partners: NDArray[np.intp]) -> _Rules:
    """What the values of a sample of pairs say about which numbers are no measurement."""
    once = sample.copy()
    once[partners] = np.where(partners[:, None] < partners, once[partners], np.nan)
    values, counts = np.unique(once[np.isfinite(once)], return_counts=True)
    repeated: dict[float, FloatArray | None] = {}
    judged = np.zeros(values.size, dtype=bool)  # values that have been found to be repeated, or to be measurements
    left = np.ones(values.size, dtype=bool)
    fills = np.isin(values, _filling(sample, partners))
    while np.count_nonzero(left) > _NEIGHBOURS:
        found = (_standing_out(values, counts, left) | fills) & ~judged
        if not found.any():
            break
        centre, spread = _bulk(values[left], counts[left])
        own = left & ~fills & (np.abs(values.astype(np.float64) - centre) <= (FAR * spread or np.inf))
        least = int(np.argmax(own))
        late = found & (np.isin(values, COINCIDENCE) | (np.arange(values.size) == least))
        found = found & ~late if np.any(found & ~late) else late  # what else is no measurement says nothing of these
        judged |= found
        for k in np.flatnonzero(found).tolist():
            if _approached(values, counts, k):
                continue
            kept = None
            if values[k] in COINCIDENCE or (k == least and own[k] and _gap_above_least(values[own], counts[own])):
                common = ~own | (counts >= _OFTEN * _usual(counts[left])) | (values == values[k])
                share = counts[k] / counts[left].sum()
                kept = _coincidences(values[k], share, sample, values[common], bool(fills[k]))
                if kept is None:
                    continue
            repeated[float(values[k])] = kept
            left[k] = False
    values, counts = values[left], counts[left]
    if values.size < 2:
        return _Rules(repeated)
    centre, spread = _bulk(values, counts)
    reach = min(FAR * spread or np.inf, 1e9 * max(1.0, abs(centre)))
    return _Rules(repeated, centre - reach, centre + reach, (float(values[0]), float(values[-1])), spread)


def _bulk(values: MapArray, counts: NDArray[np.int64]) -> tuple[float, float]:
    """Median of sorted values and standard deviation of their central 98 %."""
    share = np.cumsum(counts) / counts.sum()
    central = (share >= 0.01) & (share - counts / counts.sum() <= 0.99)
    numbers, weights = values[central].astype(np.float64), counts[central]
    spread = np.sqrt(np.average((numbers - np.average(numbers, weights=weights)) ** 2, weights=weights))
    return float(values[np.searchsorted(share, 0.5)]), float(spread)


def _usual(counts: NDArray[np.int64]) -> float:
    """How often a value is there at most, but for the commonest ones; more where most are there more than once.

    Where photons are few values are ratios of small whole numbers, and some of these can be made in very many ways.
    """
    rank = min(_NEIGHBOURS + counts.size // 1000, counts.size - 1)
    ordered = -np.partition(-counts, rank)[rank:]
    return float(ordered[0] * ordered.mean())


def _standing_out(values: MapArray, counts: NDArray[np.int64], left: BoolArray) -> BoolArray:
    """Values that are there much oftener than those before them on the way from the median, and than usual."""
    index = np.flatnonzero(left)
    found = np.zeros(values.size, dtype=bool)
    numbers, number = values[index].astype(np.float64), counts[index]
    centre, spread = _bulk(values[index], number)
    gaps = np.diff(numbers, prepend=-np.inf, append=np.inf)
    alone = np.minimum(gaps[:-1], gaps[1:]) > _ALONE * spread
    usual, enough = np.where(alone, number.mean(), _usual(number)), np.where(alone, _TWICE, _OFTEN)
    if np.all(number < enough * usual):
        return found
    order = np.argsort(np.abs(numbers - centre), kind="stable")
    ordered = number[order]
    before = sliding_window_view(np.concatenate([np.zeros(_NEIGHBOURS, np.int64), ordered[:-1]]), _NEIGHBOURS).max(1)
    before[0] = ordered[1 : _NEIGHBOURS + 1].max()
    found[index[order]] = ordered >= enough[order] * np.maximum(before, usual[order])
    return found


def _filling(sample: MapArray, partners: NDArray[np.intp]) -> MapArray:
    """Numbers that most pairs of less than half of the frames hold, and hardly any pair of the other frames."""
    ordered, known = np.sort(sample, axis=1), np.count_nonzero(~np.isnan(sample), axis=1)
    middle = np.take_along_axis(ordered, np.minimum(known // 2, sample.shape[1] - 1)[:, None], axis=1)
    held = (sample == middle) & np.isfinite(middle)
    full = (np.count_nonzero(held, axis=1) > known / 2) & (known >= _FEW)
    found = []
    for value in np.unique(middle[full]):
        of_value = full & (middle[:, 0] == value)
        if 2 * np.count_nonzero(of_value) >= len(sample):
            continue
        others = sample[np.ix_(~of_value, ~of_value[partners])]
        if np.count_nonzero(others == value) < 0.01 * np.count_nonzero(~np.isnan(others)):
            found.append(value)
    return np.array(found, np.float32)


def _approached(values: MapArray, counts: NDArray[np.int64], k: int) -> bool:
    """Whether values pile up towards one of them: as many within 16 of the finest steps as from there to 256."""
    away = np.abs(values.astype(np.float64) - values[k]) / max(abs(float(values[k])) * np.finfo(np.float32).eps, 1e-30)
    near, far = (int(counts[(away > a) & (away <= b)].sum()) for a, b in ((0, 16), (16, 256)))
    return near >= _FEW and 4 * near >= far


def _gap_above_least(values: MapArray, counts: NDArray[np.int64]) -> bool:
    """Whether hardly any of sorted values lie within a part of a coincidence above the least, which has none."""
    if values.size < 2:
        return False
    above = values[1:].astype(np.float64) - float(values[0])
    one = float(above @ counts[1:]) / counts.sum() / -np.log(counts[0] / counts.sum())
    return bool(counts[1:][above < _GAP * one].sum() <= _BESIDE * counts[0])


def _coincidences(
    value: np.float32, share: float, sample: MapArray, common: MapArray, fills: bool
) -> FloatArray | None:
    """How much the values of each frame scatter, (n,): pairs with a product of 1 or more may have no coincidence.

    None where all may, because values scatter as numbers of coincidences do of which a share is zero; but for whole
    frames that the value `fills` while others hardly have it. Common values do not count. The variance of a pair is one
    over its coincidences, and both frames are factors of these.
    """
    number = -np.log(share)
    least = _SCATTER * np.sqrt((1 + number) * (1 - share) / number - 1)
    others = np.where(np.isfinite(sample) & ~np.isin(sample, common), sample, np.nan).astype(np.float64) - float(value)
    known = np.isfinite(others)
    count = np.count_nonzero(known, axis=1)
    mean = np.sum(others, axis=1, where=known) / np.maximum(count, 1)
    sd = np.sqrt(np.sum((others - mean[:, None]) ** 2, axis=1, where=known) / np.maximum(count, 1))
    scatter = np.divide(sd, np.abs(mean), out=np.zeros(len(sd)), where=mean != 0)
    few, whole = count < _FEW, np.all((sample == value) | np.isnan(sample), axis=1)
    if few.all() or np.mean(few[~whole]) > 0.5 or (typical := float(np.median(scatter[~few]))) >= least:
        return np.where(whole, 0.0, 1e30) if fills and value else None
    unknown = 1e30 if value == 0 else 0.0  # frames of zeros are judged by their diagonal
    return np.where(few, unknown, scatter / np.sqrt(max(typical * max(least, 2 * typical), 1e-60)))


def _without(one: MapArray, rules: _Rules, frames: BoolArray) -> MapArray:
    """The map with NaN in place of single pairs that are no data; itself if there is none beside whole frames."""
    values = one
    for rows, strip, later in upper_strips(one):
        found = np.zeros(strip.shape, dtype=bool)
        for _, where in rules.numbers(strip, rows):
            found |= where
        found &= later & frames[rows, None] & frames[rows.start :]
        if found.any():
            if values is one:
                values = changeable(one)
            values[rows, rows.start :][found] = np.nan
    return values


def _records(
    one: MapArray,
    number: int,
    counts: dict[str | float, NDArray[np.int64]],
    zeros: NDArray[np.int64],
    alive: BoolArray,
    rules: _Rules,
) -> Iterator[LeftOut]:
    """Say what was left out, most of the frames under the reason that most of their pairs have."""
    table = np.array([*counts.values(), zeros])
    mostly = np.where(alive, -1, np.argmax(table, axis=0))
    dark = np.flatnonzero(mostly == len(counts))
    for k, (reason, of_frame) in enumerate(counts.items()):
        pairs = int(of_frame.sum()) // 2
        frames = np.flatnonzero(mostly == k)
        if not pairs:
            continue
        value = None if isinstance(reason, str) else reason
        kind = reason if isinstance(reason, str) else rules.kind(reason, pairs, frames.size, len(one))
        yield LeftOut(number, kind, pairs, tuple(frames.tolist()), value)
    if dark.size:
        among = int(np.count_nonzero(np.triu(one[np.ix_(dark, dark)] == 0, 1)))
        yield LeftOut(number, "zeros", int(zeros[dark].sum()) - among, tuple(dark.tolist()), 0.0)


def upper_strips(one: MapArray) -> Iterator[tuple[slice, MapArray, BoolArray]]:
    """Yield (rows, their elements from the first diagonal one on, which of these are i < j)."""
    frame = np.arange(len(one))
    for rows in strips(len(one)):
        yield rows, intact(one)[rows, rows.start :], frame[rows, None] < frame[rows.start :]


def strips(n: int) -> list[slice]:
    """Rows that are handled at once."""
    return [slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS)]


def zero_frames(one: MapArray) -> BoolArray:
    """Frames of one (n, n) map that have only zeros and NaN in common with the other frames."""
    found = np.ones(len(one), dtype=bool)
    for rows, strip, later in upper_strips(one):
        present = later & (strip != 0) & ~np.isnan(strip)
        found[rows] &= ~present.any(axis=1)
        found[rows.start :] &= ~present.any(axis=0)
    return found


def upright(one: MapArray) -> MapArray:
    """A map with its data above the diagonal: transposed where only the lower triangle holds more than one number.

    What is mapped from a file stays there.
    """
    if constant(one) and not constant(one.T):
        return one.T if mapping_of(one) is not None else np.ascontiguousarray(one.T)
    return one


def constant(one: NDArray[np.floating]) -> bool:
    """Whether the elements i < j that are no NaN are one number; told by the first rows where they are not."""
    number = None
    for _, strip, later in upper_strips(one):
        values = strip[later]
        values = values[~np.isnan(values)]
        if number is None and values.size:
            number = values[0]
        if np.any(values != number):
            return False
    return True


def sentences(left_out: Sequence[LeftOut], num_maps: int, first_frame: int = 1) -> list[str]:
    """One line for every kind: pairs, the numbers they hold, maps, and frames of which nothing is left.

    Frames are numbered from `first_frame`.
    """
    found = []
    for kind, text in KINDS.items():
        some = [one for one in left_out if one.kind == kind]
        if not some:
            continue
        values = sorted({one.value for one in some if one.value is not None})
        frames = sorted({frame + first_frame for one in some for frame in one.frames})
        maps = len({one.map for one in some})
        line = f"{sum(one.pairs for one in some):,} pairs {text}"
        line += f" ({listed(values, 5)})" if values and kind != "zeros" else ""
        line += f", in {maps} of {num_maps} maps" if num_maps > 1 else ""
        found.append(line + (f"; frames {listed(frames, 20)}" if frames else ""))
    return found
