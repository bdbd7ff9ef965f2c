"""A likelihood for independent points, made as wide as correlated noise leaves the estimate.

The points of a map share noise, so the likelihood L that takes them as independent is too narrow. The calibrated one is

    L(z0 + C (z - z0)) with the noise sigma * widening

about its maximum z0, or, where it has several, about the nearest. The widening, one number, keeps the shape of the
likelihood far from z0; C, in the metric of the posterior a symmetric matrix near one, turns what is left into the
sandwich covariance H^-1 J H^-1. Directions that only the prior knows stay as they are. (Ribatet, Cooley and Davison,
Stat. Sinica 22, 813 (2012), where the widening is one.) Maxima have one widening in common, so that their heights can
be compared.
What the data say of offset and contrast given z gets its own width and regression on z; their prior comes after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from homodyne import two_by_two
from homodyne.arrays import Array, Leaf, Matrix, PerMap, Vector
from homodyne.physics.compiling import Numbers

if TYPE_CHECKING:
    from homodyne.noise.sandwich import Sandwich

_REACH = 5.0  # standard deviations of a change that is linear about the centre, to which it tends far away
_LEAST = 1e-6  # of that, in the units of the estimate


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Adjustment:
    """What turns the likelihood for independent points into the calibrated one.

    Attributes
    ----------
    center : (d,) array
        Maximum z0 of the likelihood.
    matrix : (d, d) array
        C.
    widening : float
        Factor of the noise.
    scaling_slope : (n_maps, 2, d) array
        Change of the estimate of (offset, contrast) given z with z - z0, on top of what the adjusted likelihood has.
    scaling_spread : (n_maps, 2, 2) array
        Its covariance.
    scaling_reach : (n_maps, 2) array
        What that change tends to far from z0.
    contrast : (n_maps,) array
        Estimate of the contrast at z0.

    The last four are along the columns of the lower Cholesky root of the information that the adjusted likelihood has
    of them, wherever z is, and in units of what it leaves open: the level of c2 at the mean correlation, and the
    contrast. What the data hardly tell of one is so kept apart from what they tell well of the other.
    """

    center: Leaf
    matrix: Leaf
    widening: Leaf
    scaling_slope: Leaf
    scaling_spread: Leaf
    scaling_reach: Leaf
    contrast: Leaf

    def scaling(
        self,
        difference: Float[Numbers, "coordinates"],
        mean: Float[jax.Array, "maps 2"],
        information: Float[jax.Array, "maps 2 2"],
    ) -> tuple[Float[jax.Array, "maps 2"], Float[jax.Array, "maps 2 2"]]:
        """Estimate (n_maps, 2) of (offset, contrast) and its information (n_maps, 2, 2) under correlated noise.

        Near z0 the estimate changes linearly with z. Far away it must not run into what the prior likes, or the
        posterior would rise where the model does not fit: the change is bounded, and a contrast that is seen above its
        noise x (two standard deviations) is changed by a factor, which leaves it positive: asinh(contrast / x) grows.

        Parameters
        ----------
        difference : (d,) array
            z - z0.
        mean, information
            Those that the adjusted likelihood has, without a prior.
        """
        root = two_by_two.cholesky(information)
        upper = jnp.swapaxes(root, 1, 2)
        change = jnp.asarray(self.scaling_slope) @ difference
        change = change / jnp.sqrt(1.0 + (change / self.scaling_reach) ** 2)
        known, noise = root[:, 1, 1] * mean[:, 1], 2.0 * jnp.sqrt(jnp.asarray(self.scaling_spread)[:, 1, 1])
        factor = change[:, 1] / jnp.hypot(self.contrast, noise)
        more = known * (jnp.cosh(factor) - 1.0) + jnp.hypot(known, noise) * jnp.sinh(factor)
        moved = mean + two_by_two.solve_transposed(root, jnp.stack([change[:, 0], more], axis=1))
        return moved, root @ two_by_two.inverse(jnp.asarray(self.scaling_spread)) @ upper


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Calibration:
    """Adjustments about modes; that of the nearest applies.

    Where the distance to two of them is the same in standard deviations, so is the likelihood, to first order.

    Attributes
    ----------
    modes : (n, d) array
        Where the adjustments were made.
    precision : (n, d, d) array
        Of the calibrated posterior at each, by which distances are measured.
    adjustments : Adjustment
        All of them, with a leading axis, and one widening.
    """

    modes: Leaf
    precision: Leaf
    adjustments: Adjustment

    @classmethod
    def of(cls, parts: Sequence[tuple[Vector, Matrix, Adjustment]]) -> "Calibration":
        """Calibration from the modes, the covariances there, and the adjustments."""
        modes, covariances, adjustments = zip(*parts, strict=True)
        stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *adjustments)
        return cls(np.array(modes), np.linalg.inv(np.array(covariances)), stacked)

    def at(self, z: Float[Numbers, "coordinates"]) -> Adjustment:
        """Adjustment at coordinates z (d,)."""
        place: Any = 0
        if len(self.modes) > 1:
            gap = jnp.asarray(z) - jnp.asarray(self.modes)
            place = jnp.argmin(jnp.einsum("ni,nij,nj->n", gap, jnp.asarray(self.precision), gap))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[place], self.adjustments)  # type: ignore[no-any-return]

    @property
    def widening(self) -> Float[jax.Array, ""]:
        """Factor of the noise."""
        return jnp.asarray(self.adjustments.widening)[0]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, for JSON."""
        parts = {name: np.asarray(value).tolist() for name, value in vars(self.adjustments).items()}
        return {"modes": np.asarray(self.modes).tolist(), "precision": np.asarray(self.precision).tolist(), **parts}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Calibration":
        """Rebuild what `to_dict` returned; TypeError, KeyError or ValueError where it is something else."""
        arrays: dict[str, Any] = {name: np.asarray(value, dtype=np.float64) for name, value in record.items()}
        return cls(arrays.pop("modes"), arrays.pop("precision"), Adjustment(**arrays))


def uncalibrated(dim: int, num_maps: int) -> Calibration:
    """Calibration that leaves a likelihood of `dim` coordinates as it is."""
    scaling = np.zeros((num_maps, 2, dim)), np.tile(np.eye(2), (num_maps, 1, 1)), np.ones((num_maps, 2))
    none = Adjustment(np.zeros(dim), np.eye(dim), 1.0, *scaling, np.zeros(num_maps))
    return Calibration.of([(np.zeros(dim), np.eye(dim), none)])


def adjustment_to(
    sandwich: "Sandwich", center: Vector, covariance: Matrix, contrast: PerMap, widening: float | None = None
) -> Adjustment:
    """Adjustment whose likelihood has the curvature of the sandwich.

    Parameters
    ----------
    sandwich : Sandwich
        At a point near the mode.
    center : (d,) array
        Maximum of the likelihood, as seen from there.
    covariance : (d, d) array
        Of the posterior for independent pairs.
    contrast : (n_maps,) array
        Estimate of the contrast of every map.
    widening : float, optional
        Factor of the noise; by default the root of variability over information, in the mean over directions.
    """
    root = np.linalg.cholesky(covariance)
    variability, information = (root.T @ x @ root for x in (sandwich.variability, sandwich.information))
    power = float(np.trace(variability) / np.trace(information)) if widening is None else widening**2
    values, vectors = np.linalg.eigh(variability / power + np.eye(len(root)) - information)
    matrix = root @ (vectors / np.sqrt(values)) @ vectors.T @ np.linalg.inv(root)
    slope = (sandwich.scaling_slope - sandwich.elimination @ matrix) / np.sqrt(power)
    back = np.linalg.solve(matrix, root) * np.sqrt(power)  # a root of the covariance as it is calibrated, about
    return Adjustment(
        center=center,
        matrix=matrix,
        widening=float(np.sqrt(power)),
        scaling_slope=slope,
        scaling_spread=sandwich.scaling_spread / power,
        scaling_reach=_REACH * np.linalg.norm(slope @ back, axis=2) + _LEAST,
        contrast=np.linalg.cholesky(sandwich.scaling_information)[:, 1, 1] * contrast / np.sqrt(power),
    )


def adjusted_covariance(
    adjustment: Adjustment, sandwich: "Sandwich", prior: Matrix, scaling_prior: Float[Array, "maps 2"]
) -> Matrix:
    """Covariance of the calibrated posterior to first order.

    `prior` (d, d) and `scaling_prior` (n_maps, 2) are the precisions of the priors of z and of (offset, contrast).
    """
    narrowed = adjustment.matrix.T @ sandwich.information @ adjustment.matrix / adjustment.widening**2
    root = np.linalg.cholesky(sandwich.scaling_information)
    spread = sandwich.scaling_spread + np.swapaxes(root, 1, 2) @ (root / scaling_prior[:, :, None])
    known = np.einsum("kia,kij,kjb->ab", sandwich.scaling_slope, np.linalg.inv(spread), sandwich.scaling_slope)
    return np.asarray(np.linalg.inv(narrowed + known + prior))
