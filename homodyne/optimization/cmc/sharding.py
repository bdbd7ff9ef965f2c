"""Shards: parts of the data, each point in exactly one of them, every part like the whole.

`shard_numbers` deals out the pairs of two-time maps, `shard_data_stratified` cuts flat arrays of
points, `shard_rows` numbers the rows of any other data, and `validate_shards` looks for lost and doubled points.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from homodyne.arguments import Faults, require_list
from homodyne.arrays import AnyArray, as_array, real_array
from homodyne.data.flat import SAME_ANGLE
from homodyne.errors import InputError
from homodyne.likelihood.maps import Maps
from homodyne.optimization.cmc.shard_strategies import Rng, numbered
from homodyne.registries import STRATEGIES, Strategy

EVEN_ANGLES = 0.25
"""Relative excess or lack of an angle in a shard that is still called even."""

_CHANCE = 6.0  # standard deviations of a count of points that chance is granted


class Shard(TypedDict):
    """Points of one shard: their values, their indices in the whole (ascending), and what all shards share."""

    shard_id: int
    data: AnyArray
    t1: AnyArray
    t2: AnyArray
    phi: AnyArray
    indices: npt.NDArray[np.int64]
    q: float | None
    L: float | None


# --- flat arrays


def assign_points(
    strategy: str, t1: npt.ArrayLike, t2: npt.ArrayLike, phi: npt.ArrayLike, num_shards: int, *, seed: int = 0
) -> npt.NDArray[np.int32]:
    """Give every point of flat arrays the number of its shard.

    ``stratified`` deals out bins in t1, t2 and phi, ``time_stratified`` bins in t1 and t2, ``random`` bins that are
    drawn; ``contiguous`` cuts the arrays in their order. These four differ by at most one point between shards.
    ``interleaved`` and ``frame_blocks`` follow the frames, which are the distinct times; the row of a point is the
    earlier one.

    Parameters
    ----------
    strategy : str
        A name in `homodyne.registries.STRATEGIES`, or ``module:name`` in a module that is imported.
    t1, t2 : (N,) array
        Times, s.
    phi : (N,) array
        Angles, degrees.
    num_shards : int
        1 to N.
    seed : int
        Decides the draws of ``random`` and where each round of dealing starts.

    Returns
    -------
    (N,) int32
        0 to ``num_shards - 1``; every shard has a point.

    Raises
    ------
    InputError
        Unknown strategy, unequal lengths, values that are not finite, more shards than points, or than there are
        parts of the grid.
    """
    chosen = _strategy(strategy)
    first, second, angle = (_finite(name, values) for name, values in (("t1", t1), ("t2", t2), ("phi", phi)))
    _require_flat({"t1": first, "t2": second, "phi": angle})
    require_fewer(num_shards, first.size)
    return _dealt(chosen.points(first, second, angle, num_shards, _generator(seed)), first.size, num_shards, strategy)


def shard_rows(num_points: int, num_shards: int, strategy: str = "random", seed: int = 0) -> npt.NDArray[np.int32]:
    """Give every row of any data (leading axis: observation) the number of its shard.

    Parameters
    ----------
    num_points : int
        Number of rows N.
    num_shards : int
        1 to N; sizes of shards differ by at most one.
    strategy : "random", "contiguous" or "interleaved"
        Drawn, consecutive rows, or every num_shards-th row.
    seed : int
        Decides the draws of ``random``.

    Raises
    ------
    InputError
        Unknown strategy, no rows, or more shards than rows.
    """
    deal = by_rows(strategy)
    require_fewer(num_shards, num_points)
    return _dealt(deal(num_points, num_shards, _generator(seed)), num_points, num_shards, strategy)


def by_rows(strategy: str) -> Callable[[int, int, Rng], AnyArray]:
    """How a strategy deals out rows; an InputError for one that is not known, or deals out points only."""
    deal = _strategy(strategy).rows
    if deal is None:
        known = [name for name in STRATEGIES if STRATEGIES[name].rows is not None]
        raise InputError(f"the strategy {strategy!r} deals out points, not rows; use one of {', '.join(known)}")
    return deal


def shard_data_stratified(  # noqa: PLR0913  # a door of long standing
    data: npt.ArrayLike,
    t1: npt.ArrayLike,
    t2: npt.ArrayLike,
    phi: npt.ArrayLike,
    num_shards: int,
    q: float | None = None,
    L: float | None = None,
    strategy: str = "stratified",
    *,
    seed: int = 0,
) -> list[Shard]:
    """Cut flat arrays into shards, by any of the strategies of :func:`assign_points`.

    Parameters
    ----------
    data : (N,) array
        c2 at the points; NaN values stay with their points, masked ones become NaN.
    t1, t2, phi, num_shards, strategy, seed
        As in :func:`assign_points`.
    q, L : float, optional
        Scattering vector, 1/Å, and gap, Å; handed on to every shard.

    Raises
    ------
    InputError
        As :func:`assign_points`.
    """
    if np.ma.is_masked(data):
        data = np.ma.filled(np.ma.asarray(data, dtype=np.float64), np.nan)
    values, first, second, angle = map(as_array, ("data", "t1", "t2", "phi"), (data, t1, t2, phi))
    _require_flat({"data": values, "t1": first, "t2": second, "phi": angle})
    numbers = assign_points(strategy, first, second, angle, num_shards, seed=seed)
    order, start = _grouped(numbers, num_shards)
    shards = []
    for m in range(num_shards):
        k = order[start[m] : start[m + 1]]
        part = Shard(
            shard_id=m, data=values[k], t1=first[k], t2=second[k], phi=angle[k], indices=k.astype(np.int64), q=q, L=L
        )
        shards.append(part)
    return shards


shard_data_time_stratified = partial(shard_data_stratified, strategy="time_stratified")
"""`shard_data_stratified` with bins in the two times only."""


# --- maps


def shard_numbers(
    maps: Maps, num_shards: int, strategy: str | Strategy, *, seed: int = 0, among: Maps | None = None
) -> Callable[[int, AnyArray, AnyArray], npt.NDArray[np.int32]]:
    """How the pairs of frames are dealt out: a function ``(k, i, j)`` that numbers the shards of pairs of map k.

    Grid strategies keep the grid of the maps; the others shard each map alike, each map starting where the one before
    it stopped. ``contiguous`` keeps all maps of a pair together.

    Parameters
    ----------
    maps : Maps
    num_shards : int
        At least 1.
    strategy : str
        A name in `homodyne.registries.STRATEGIES`, or ``module:name`` in a module that is imported.
    seed : int
        As in :func:`assign_points`.
    among : Maps, optional
        All maps, where `maps` are some of them; their values are not used.

    Raises
    ------
    InputError
        Unknown strategy, or more shards than pairs of frames or parts of the grid.
    """
    among = maps if among is None else among
    require_count(among, num_shards, strategy)
    alive = among.alive.any(axis=0)
    frames = np.flatnonzero(alive)
    n = frames.size
    place = np.cumsum(alive) - 1  # number of a frame among the good ones
    chosen = _strategy(strategy)
    if chosen.grid is not None:
        by_row, by_column = chosen.grid(n, num_shards)
        return lambda k, i, j: np.asarray(by_row[place[i]] + by_column[place[j]], dtype=np.int32)
    earlier, later = (frames[x].astype(np.min_scalar_type(int(frames[-1]))) for x in np.triu_indices(n, 1))
    dealt = chosen.points(maps.t[earlier], maps.t[later], np.zeros(earlier.size), num_shards, _generator(seed))
    number = _dealt(dealt, earlier.size, num_shards, strategy)
    before = [_before(among, maps.q[k], maps.phi[k]) for k in range(maps.num_maps)]
    shift = chosen.rotates * earlier.size * np.array(before)
    starts = np.concatenate([[0], np.cumsum(np.arange(n - 1, 0, -1))])

    def of(k: int, i: AnyArray, j: AnyArray) -> npt.NDArray[np.int32]:
        first, second = place[i], place[np.minimum(j, len(place) - 1)]
        position = np.clip(starts[first] + second - first - 1, 0, number.size - 1)
        return np.asarray((number[position] + shift[k]) % num_shards, dtype=np.int32)

    return of


def require_count(maps: Maps, num_shards: int, strategy: str | Strategy) -> None:
    """Refuse more shards than the strategy can fill; no map is read.

    Raises
    ------
    InputError
        The message says how many are possible.
    """
    chosen = _strategy(strategy)
    n = int(np.count_nonzero(maps.alive.any(axis=0)))
    pairs = n * (n - 1) // 2
    if chosen.grid is not None and pairs < num_shards:
        raise InputError(
            f"{n} good frames cannot fill {num_shards} shards by the strategy {strategy!r}; use at most {n - 1} shards"
        )
    require_fewer(num_shards, pairs, "pairs of good frames")
    if chosen.grid is not None:
        chosen.grid(n, num_shards)


def _before(maps: Maps, q: float, phi: float) -> int:
    """Number of maps with a smaller q, or the same and a smaller angle."""
    return int(np.count_nonzero((maps.q < q) | ((maps.q == q) & (maps.phi < phi))))


# --- check


def validate_shards(
    shards: Sequence[Shard], original_size: int, *, min_shard_size: int = 1, min_phi_angles: int = 3
) -> tuple[bool, list[str]]:
    """Look for lost and doubled points, small shards, and angles that a shard misses or has too much of.

    Parameters
    ----------
    shards : sequence of Shard
        What :func:`shard_data_stratified` returned.
    original_size : int
        Number of points N that were cut.
    min_shard_size : int
        Fewest points in a shard.
    min_phi_angles : int
        Fewest angles in a shard, or all angles where there are fewer.

    Returns
    -------
    valid : bool
    problems : list of str
        One sentence per problem, naming the shards; empty when valid. Angles are unevenly distributed where a shard
        holds `EVEN_ANGLES` more or less of one than its share, beyond six standard deviations of chance.
    """
    require_list("shards", shards, "shards, as shard_data_stratified gives them")
    with Faults() as faults:
        for k, shard in enumerate(shards):
            faults.kind(f"shard {k}", shard, Mapping)
        for name, value in {"original_size": original_size, "min_shard_size": min_shard_size}.items():
            faults.integer(name, value)
        faults.integer("min_phi_angles", min_phi_angles)
    if not shards:
        return False, ["there are no shards"]
    problems = _index_problems(shards, original_size)
    usable = True
    for shard in shards:
        size = np.size(shard["indices"])
        if size < min_shard_size:
            problems.append(f"shard {shard['shard_id']} has {size} points; expected at least {min_shard_size}")
        lengths = {name: np.shape(shard[name]) for name in ("data", "t1", "t2", "phi")}
        if any(length != (size,) for length in lengths.values()):
            problems.append(f"shard {shard['shard_id']} has {size} indices but arrays of shapes {lengths}")
            usable = False
        elif not np.isfinite(shard["phi"]).all():
            problems.append(f"shard {shard['shard_id']} has angles that are NaN or infinite")
            usable = False
    if usable and any(np.size(shard["phi"]) for shard in shards):
        problems += _angle_problems(shards, min_phi_angles)
    return not problems, problems


def _index_problems(shards: Sequence[Shard], original_size: int) -> list[str]:
    problems = []
    owner = np.full(original_size, -1, dtype=np.int32)
    for k, shard in enumerate(shards):
        name = f"shard {shard['shard_id']}"
        indices = np.sort(np.asarray(shard["indices"], dtype=np.int64))
        inside = indices[(indices >= 0) & (indices < original_size)]
        if inside.size < indices.size:
            problems.append(f"{name} has {indices.size - inside.size} indices outside 0..{original_size - 1}")
        again = inside[1:][inside[1:] == inside[:-1]]
        if again.size:
            problems.append(f"{name} holds {again.size} points more than once, the first is {again[0]}")
        taken = inside[owner[inside] >= 0]
        if taken.size:
            other = shards[owner[taken[0]]]["shard_id"]
            problems.append(
                f"{name} holds {taken.size} points of other shards, the first is {taken[0]} of shard {other}"
            )
        owner[inside] = k
    lost = np.flatnonzero(owner < 0)
    if lost.size:
        problems.append(f"{lost.size} of {original_size} points are in no shard, the first is {lost[0]}")
    return problems


def _angle_problems(shards: Sequence[Shard], min_phi_angles: int) -> list[str]:
    sizes = np.array([np.size(shard["phi"]) for shard in shards])
    number, angles = numbered([np.concatenate([shard["phi"] for shard in shards])], SAME_ANGLE, relative=False)
    cell = np.repeat(np.arange(sizes.size), sizes) * angles.size + number[0]
    table = np.bincount(cell, minlength=sizes.size * angles.size).reshape(sizes.size, angles.size)
    share = np.outer(sizes, table.sum(axis=0) / sizes.sum())
    excess = np.abs(table - share) - np.maximum(EVEN_ANGLES * share, _CHANCE * np.sqrt(share))
    wanted = min(min_phi_angles, angles.size)
    problems = []
    for k, shard in enumerate(shards):
        seen, worst = np.count_nonzero(table[k]), int(np.argmax(excess[k]))
        if seen < wanted:
            problems.append(
                f"shard {shard['shard_id']} sees {seen} of {angles.size} angles; expected at least {wanted}"
            )
        elif excess[k, worst] > 0:
            problems.append(
                f"shard {shard['shard_id']} has {table[k, worst]} points at phi = {angles[worst]:g} degrees; "
                f"an even distribution gives {share[k, worst]:.0f}"
            )
    return problems


# --- details


def _finite(name: str, values: npt.ArrayLike) -> AnyArray:
    array = real_array(name, values)
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinite values; expected finite numbers only")
    return array


def _require_flat(arrays: Mapping[str, AnyArray]) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise InputError(f"points need flat arrays of equal lengths; their shapes are {shapes}")


def _dealt(numbers: npt.ArrayLike, count: int, num_shards: int, strategy: str | Strategy) -> npt.NDArray[np.int32]:
    """Numbers of the shards, made sure that there is one for each point, and that no shard is empty."""
    found = np.asarray(numbers)
    whole = found.shape == (count,) and np.issubdtype(found.dtype, np.integer) and 0 <= found.min() <= found.max()
    if not whole or found.max() >= num_shards or not np.bincount(found, minlength=num_shards).all():
        raise InputError(
            f"the strategy {strategy!r} gave numbers of type {found.dtype} and shape {found.shape}; expected {count} "
            f"integers from 0 to {num_shards - 1}, each at least once"
        )
    return found.astype(np.int32)


def _strategy(given: str | Strategy) -> Strategy:
    return given if isinstance(given, Strategy) else STRATEGIES.find(given, importing=False)


def _require_count(name: str, value: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} = {value!r}; expected an integer of {least} or more")


def require_fewer(num_shards: int, num_points: int, what: str = "points") -> None:
    """Raise an InputError unless every shard gets a point."""
    _require_count("num_shards", num_shards)
    if num_points == 0:
        raise InputError(f"there are no {what} to shard; give at least one for every shard")
    if num_points < num_shards:
        raise InputError(f"{num_points} {what} cannot fill {num_shards} shards; use at most {num_points} shards")


def _generator(seed: int) -> Rng:
    _require_count("seed", seed, 0)
    return np.random.default_rng(seed)


def _grouped(numbers: AnyArray, num_shards: int) -> tuple[AnyArray, AnyArray]:
    """Order that brings points of a shard together, ascending inside, and the (M + 1,) limits of the shards."""
    order = np.argsort(numbers.astype(np.min_scalar_type(num_shards)), kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=num_shards))])
