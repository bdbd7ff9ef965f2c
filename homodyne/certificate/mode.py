"""Modes of smooth log densities of few coordinates, by Newton's method with exact Hessians.

`climb` does not depend on the scales of the coordinates, and leaves saddles and regions of wrong curvature because
it uses the absolute eigenvalues of the Hessian (Dauphin et al., NeurIPS 2014).
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from homodyne.arrays import Leaf, Matrix, Vector

Expansion = Callable[[Vector], tuple[float, Vector, Matrix]]

MAX_STEPS = 60
HALVINGS = 40
DEFINITE = 1e-12  # smallest eigenvalue, in coordinates of unit diagonal, of a matrix that is told from a singular one
SMALLEST = 1e-13  # eigenvalue, relative to the largest, below which a direction counts as flat
ENOUGH = 1e-8  # expected gain of the last step, in units of the log density


@dataclass(frozen=True)
class Mode:
    """Where an ascent ended.

    Attributes
    ----------
    point : (d,) array
    value : float
        Log density there.
    precision : (d, d) array
        Minus its Hessian.
    converged : bool
        Whether the last step promised almost nothing; a mode if `precision` is positive definite.
    """

    point: Vector
    value: float
    precision: Matrix
    converged: bool


def expansion(log_density: Callable[..., jax.Array], *arguments: object) -> Expansion:
    """Compile value, gradient (d,) and minus the Hessian (d, d) of a log density, as NumPy arrays of a point (d,).

    The log density is one of coordinates (d,) and, where there are some, further arguments, trees of arrays.
    """

    def expand(z: jax.Array, *arguments: object) -> tuple[jax.Array, jax.Array, jax.Array]:
        value, gradient = jax.value_and_grad(log_density)(z, *arguments)
        return value, gradient, -jax.hessian(log_density)(z, *arguments)

    program, arguments = jax.jit(expand), jax.device_put(arguments)

    def call(z: Vector) -> tuple[float, Vector, Matrix]:
        value, gradient, precision = program(jnp.asarray(z), *arguments)
        return float(value), np.asarray(gradient), np.asarray(precision)

    return call


def climb(expand: Expansion, start: npt.ArrayLike, free: npt.ArrayLike | None = None) -> Mode:
    """Ascend from a point (d,) of finite density to a mode over the coordinates with indices `free` (default all)."""
    z = np.array(start, dtype=np.float64)
    index = np.arange(len(z)) if free is None else np.asarray(free)
    value, gradient, precision = expand(z)
    for _ in range(MAX_STEPS):
        slope, curvature = gradient[index], precision[np.ix_(index, index)]
        if not (np.isfinite(slope).all() and np.isfinite(curvature).all()):
            return Mode(z, value, precision, False)
        step = newton_step(slope, curvature)
        gain = float(slope @ step)
        if not np.isfinite(gain) or gain < ENOUGH:
            return Mode(z, value, precision, bool(gain < ENOUGH))
        for halving in range(HALVINGS):
            trial = z.copy()
            trial[index] += 0.5**halving * step
            new = expand(trial)
            if new[0] > value + 1e-4 * 0.5**halving * gain and np.isfinite(new[1]).all():
                break
        else:  # no visible gain: rounding when little was expected
            return Mode(z, value, precision, gain < ENOUGH + 1e-10 * abs(value))
        z, (value, gradient, precision) = trial, new
    return Mode(z, value, precision, False)


def definite(matrix: Matrix) -> bool:
    """Whether a symmetric matrix (d, d) is positive definite beyond rounding, whatever the coordinates' scales."""
    size = np.sqrt(np.fmax(np.diag(matrix), 0.0))
    if not (np.isfinite(matrix).all() and size.min() > 0.0):
        return False
    return bool(np.linalg.eigvalsh(matrix / size / size[:, None])[0] > DEFINITE)


def newton_step(gradient: Leaf, precision: Leaf, xp: ModuleType = np) -> Leaf:
    """Return |precision|^-1 gradient in coordinates scaled by the diagonal, by NumPy or `jax.numpy`."""
    diagonal = xp.abs(xp.diag(precision))
    scale = 1.0 / xp.sqrt(xp.where(diagonal > 0.0, diagonal, 1.0))
    sizes, vectors = xp.linalg.eigh(precision * scale * scale[:, None])
    size = xp.maximum(xp.abs(sizes), SMALLEST * xp.maximum(xp.abs(sizes).max(), 1.0))
    return scale * (vectors @ (vectors.T @ (scale * gradient) / size))
