"""Modes of a log density, looked for from many starts until those not yet seen can hardly matter.

Climbs begin at draws of the prior, at local maxima of scans along every coordinate from the best mode, and at points
that are known. The share of the mass in modes that exactly one start has found is about that of modes which none has
found (Good, Biometrika 40, 237, 1953, for Turing's estimate); starts are doubled while it matters. The mass of a mode
is that of its normal approximation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from homodyne.arrays import Array, Matrix, Points, Values, Vector
from homodyne.certificate.density import LogDensity
from homodyne.certificate.mode import ENOUGH, Mode, newton_step

Draw = Callable[[int, np.random.Generator], Points]
Ends = tuple[Points, Values, Float[Array, "points coordinates coordinates"], Bool[np.ndarray, "points"]]

FIRST = 64  # draws of the prior that are climbed from at first
DOUBLINGS = 4  # of the starts, at most
UNSEEN = 0.01  # probability of modes not yet seen that is left
SCANNED = 4096  # points of the scan along a coordinate, at most
SPACING = 1.0  # of the scan, in posterior sd of the coordinate given the others
RANGE = 0.999  # of the prior's draws that a scan covers
PEAKS = 32  # local maxima of a scan, the highest, that are climbed from
_SAME = 0.05  # distance of two ends in posterior sd, below which they are one mode
_LEAST = 1e-9  # share of the mass, below which a mode is forgotten
_STEPS, _TOGETHER = 50, 8
_LENGTHS = 0.4 ** np.arange(12)  # of a Newton step, of which the best is taken


@dataclass(frozen=True, eq=False)
class Search:
    """What was found.

    Attributes
    ----------
    modes : list of Mode
        The heaviest first; none where no climb has ended at a maximum.
    num_starts : int
        Climbs.
    unseen : float
        Estimated share of the mass in modes that were not found.
    possible : (d,) array or None
        The first start at which the density is finite; None where there is none.
    """

    modes: list[Mode]
    num_starts: int
    unseen: float
    possible: Array | None

    @property
    def shares(self) -> Float[Array, "modes"]:
        """Shares of the modes in the mass, (k,)."""
        return _shares(self.modes)

    @property
    def complete(self) -> bool:
        """Whether modes that were not found hardly matter."""
        return bool(self.modes) and self.unseen < UNSEEN

    @property
    def sentence(self) -> str:
        """What was done, in words."""
        found = f"{len(self.modes)} mode{'' if len(self.modes) == 1 else 's'} found from {self.num_starts} starts"
        return found if self.complete else f"{found}, new ones still coming ({100 * self.unseen:.0f} % of the mass)"

    def normals(self) -> list[tuple[Vector, Matrix]]:
        """Mode (d,) and covariance (d, d) of each."""
        return [(mode.point, np.asarray(np.linalg.inv(mode.precision), dtype=np.float64)) for mode in self.modes]


def search(log_density: LogDensity, draw: Draw, known: Points, rng: np.random.Generator) -> Search:
    """Look for all modes of a log density.

    Parameters
    ----------
    log_density
        Of coordinates (d,), twice differentiable by JAX.
    draw
        Draws (n, d) of the prior, or of something as wide.
    known
        Points (n, d) from which climbs begin, too.
    rng
        Source of the starts.
    """
    climb, values = _climber(log_density), jax.jit(lambda z: jax.lax.map(log_density, z, batch_size=64))
    found: list[Mode] = []
    counts: list[int] = []
    possible: Array | None = None
    reach = draw(1000, rng)
    starts, num_starts, best, unseen = np.concatenate([known, draw(FIRST, rng)]), 0, -np.inf, 1.0
    for doubling in range(DOUBLINGS + 1):
        if possible is None:
            possible = next(iter(starts[np.isfinite(np.asarray(values(starts)))]), None)
        _collect(climb(starts), found, counts)
        num_starts += len(starts)
        if found and max(mode.value for mode in found) > best + 1e-6:  # a better one to scan from
            top = max(found, key=lambda mode: mode.value)
            best, peaks = top.value, _scan(values, top, reach)
            num_starts += len(peaks)
            _collect(climb(peaks), found, counts)
        unseen = _unseen(found, counts)
        if unseen < UNSEEN:
            break
        starts = draw(FIRST * 2**doubling, rng)
    shares = _shares(found)
    order = [k for k in np.argsort(-shares) if shares[k] > _LEAST]
    return Search([found[k] for k in order], num_starts, unseen, possible)


def _climber(log_density: LogDensity) -> Callable[[Points], Ends]:
    """Ends (n, d), values, minus Hessians (n, d, d) and whether a maximum was reached, of climbs from starts (n, d)."""

    def expand(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        value, gradient = jax.value_and_grad(log_density)(z)
        return value, gradient, -jax.hessian(log_density)(z)

    def usable(at: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return jnp.isfinite(at[0]) & jnp.isfinite(at[1]).all() & jnp.isfinite(at[2]).all()

    def one(start: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        def proceed(state):  # type: ignore[no-untyped-def]
            return ~state[-1] & (state[0] < _STEPS)

        def move(state):  # type: ignore[no-untyped-def]
            number, z, _, _, _ = state
            at = expand(z)  # in this place only: it is most of the program
            step = newton_step(at[1], at[2], jnp)
            arrived = at[1] @ step < jnp.maximum(ENOUGH, 1e-11 * jnp.abs(at[0]))
            trials = z + jnp.asarray(_LENGTHS)[:, None] * step
            heights = jax.vmap(log_density)(trials)
            place = jnp.argmax(jnp.where(jnp.isfinite(heights), heights, -jnp.inf))
            ended = arrived | ~(heights[place] > at[0]) | ~usable(at)
            return number + 1, jnp.where(ended, z, trials[place]), at, arrived, ended

        d, no = len(start), jnp.zeros((), bool)
        first = jnp.zeros((), int), start, (jnp.zeros(()), jnp.zeros(d), jnp.zeros((d, d))), no, no
        _, z, at, arrived, _ = jax.lax.while_loop(proceed, move, first)
        curved = jnp.linalg.eigvalsh(_unit(at[2]))[0] > 1e-10
        return z, at[0], at[2], arrived & curved & usable(at)

    program = jax.jit(lambda starts: jax.lax.map(one, starts, batch_size=_TOGETHER))

    def climb(starts: Points) -> Ends:
        """Climbs in one shape of program: starts are filled up to a multiple of `FIRST`."""
        if not len(starts):
            d = starts.shape[1]
            return starts, np.zeros(0), np.zeros((0, d, d)), np.zeros(0, bool)
        parts = []
        for begin in range(0, len(starts), FIRST):
            own = starts[begin : begin + FIRST]
            full = np.pad(own, ((0, FIRST - len(own)), (0, 0)), mode="edge")
            parts.append([np.asarray(x)[: len(own)] for x in program(full)])
        z, value, precision, arrived = (np.concatenate(x) for x in zip(*parts, strict=True))
        return z, value, precision, arrived

    return climb


def _unit(precision: jax.Array) -> jax.Array:
    """A matrix in coordinates of unit diagonal; NaN where the diagonal is not positive."""
    size = jnp.sqrt(jnp.diag(precision))
    return jnp.nan_to_num(precision / size / size[:, None], nan=-1.0)


def _collect(ends: Ends, found: list[Mode], counts: list[int]) -> None:
    """Add the ends of climbs to the modes found, and count the starts of each."""
    for z, value, precision, arrived in zip(*ends, strict=True):
        if not arrived:
            continue
        for k, mode in enumerate(found):
            away = z - mode.point
            if away @ mode.precision @ away < _SAME**2:
                counts[k] += 1
                break
        else:
            found.append(Mode(z, float(value), precision, True))
            counts.append(1)


def _scan(
    values: Callable[[Points], Float[jax.Array, "points"]], top: Mode, reach: Points
) -> Float[Array, "starts coordinates"]:
    """Local maxima (n, d) of the log density along every coordinate from a mode, the highest of each."""
    low, high = np.quantile(reach, [(1 - RANGE) / 2, (1 + RANGE) / 2], axis=0)
    starts = [top.point[None][:0]]
    for k, sd in enumerate(1.0 / np.sqrt(np.diag(top.precision))):
        count = int(np.clip((high[k] - low[k]) / (SPACING * sd), 3, SCANNED))
        full = 1 << (count - 1).bit_length()  # few shapes of one program
        grid = np.linspace(low[k], high[k], full)
        points = np.repeat(top.point[None], full, axis=0)
        points[:, k] = grid
        height = np.nan_to_num(np.asarray(values(points)), nan=-np.inf)
        inner = np.flatnonzero((height[1:-1] > height[:-2]) & (height[1:-1] >= height[2:])) + 1
        inner = inner[np.abs(grid[inner] - top.point[k]) > SPACING * sd]
        starts.append(points[inner[np.argsort(-height[inner])[:PEAKS]]])
    return np.asarray(np.concatenate(starts))


def _shares(found: list[Mode]) -> Float[Array, "modes"]:
    """Shares of the modes in the mass, by their normal approximations."""
    if not found:
        return np.zeros(0)
    logs = np.array([mode.value - 0.5 * np.linalg.slogdet(mode.precision)[1] for mode in found])
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def _unseen(found: list[Mode], counts: list[int]) -> float:
    """Turing's estimate of the mass of modes not yet found; 1 where there is none."""
    return float(_shares(found)[np.array(counts) == 1].sum()) if found else 1.0
