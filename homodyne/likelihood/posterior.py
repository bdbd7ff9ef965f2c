"""The posterior that samplers see: one log density of an unconstrained vector, and everything that follows at a point.

`log_density(z, posterior)` is what is optimised, sampled and certified. A `Posterior` is a JAX tree, so that programs
take it as an argument: one that was compiled serves all data, shards, priors and noise of the same shapes.
`physical_draws` turns draws of the vector into draws of everything that has a name, offset and contrast included, drawn
from their exact conditional distribution.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Bool, Float

from homodyne import two_by_two
from homodyne.arrays import Array, Leaf, Points, Values
from homodyne.likelihood.nodes import Moments, Nodes, moments, moments_from
from homodyne.likelihood.scaling import (
    ScalingPosterior,
    ScalingPrior,
    effective_noise,
    marginal_log_likelihood,
    scaling_draws,
    scaling_posterior,
)
from homodyne.noise.adjustment import Adjustment, Calibration
from homodyne.physics.compiling import Numbers, at_points
from homodyne.physics.space import ParameterSpace

SIGMA_PRIOR = (np.log(0.1), 3.0)
"""Mean and standard deviation of the normal prior of log sigma, where sigma is sampled."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior of the coordinates and, where `sigma` is None, of the logarithm of the noise of every map.

    Attributes
    ----------
    space : ParameterSpace
    nodes : Nodes
        The data.
    scaling : ScalingPrior
    sigma : (n_maps,) array or None
        Standard deviation of a pair of weight one.
    calibration : Calibration
        For correlated noise; `uncalibrated` for independent pairs.
    """

    space: ParameterSpace
    nodes: Nodes
    scaling: ScalingPrior
    sigma: Leaf
    calibration: Calibration

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the elements of z."""
        extra = () if self.sigma is not None else tuple(f"log_sigma[{k}]" for k in range(self.nodes.num_maps))
        return (*self.space.coordinate_names, *extra)

    @property
    def dim(self) -> int:
        """Length of z."""
        return len(self.names)

    def with_sigma(self, sigma: Float[Numbers, "maps"] | None) -> "Posterior":
        """Posterior with other noise."""
        return replace(self, sigma=sigma)


class Evaluation(NamedTuple):
    """Log density at a point with everything that the same sums tell.

    Log density, moments, physical parameters by name, conditional distribution of (offset, contrast) with its mean
    (n_maps, 2) and covariance (n_maps, 2, 2).
    """

    log_density: Float[Leaf, ""]
    moments: Moments
    params: dict[str, Float[Leaf, ""]]
    scaling: ScalingPosterior
    scaling_mean: Float[Leaf, "maps 2"]
    scaling_covariance: Float[Leaf, "maps 2 2"]


def log_prior(z: Float[jax.Array, "coordinates"], posterior: Posterior) -> Float[jax.Array, ""]:
    """Log density of the prior in z (dim,)."""
    own, sigma = _split(z, posterior)
    total = posterior.space.log_prior(own)
    if posterior.sigma is None:
        total += norm.logpdf(jnp.log(sigma), *SIGMA_PRIOR).sum(axis=-1)
    return total


def log_likelihood(z: Float[jax.Array, "coordinates"], posterior: Posterior) -> Float[jax.Array, ""]:
    """Marginal log likelihood of the data at z (dim,); -inf where the model excludes the point."""
    return log_likelihood_from(z, _moments_at(_split(z, posterior)[0], posterior), posterior)


def log_likelihood_from(z: Float[jax.Array, "coordinates"], m: Moments, posterior: Posterior) -> Float[jax.Array, ""]:
    """Marginal log likelihood at z (dim,) from moments that were found elsewhere, at `image` of z."""
    own, sigma = _split(z, posterior)
    total = marginal_log_likelihood(m, sigma, posterior.scaling, *adjusted(own, posterior)).sum()
    return jnp.where(jnp.isfinite(total), total, -jnp.inf)


def log_density(z: Float[jax.Array, "coordinates"], posterior: Posterior) -> Float[jax.Array, ""]:
    """Log prior plus log likelihood at z (dim,); -inf outside the support."""
    total = log_prior(z, posterior) + log_likelihood(z, posterior)
    return jnp.where(jnp.isfinite(total), total, -jnp.inf)


def evaluation(z: Float[jax.Array, "coordinates"], posterior: Posterior) -> Evaluation:
    """`Evaluation` at z (dim,)."""
    own, sigma = _split(z, posterior)
    return _evaluation_from(z, _moments_at(own, posterior), sigma, *adjusted(own, posterior), posterior)


def image(z: Float[jax.Array, "coordinates"], posterior: Posterior) -> Float[jax.Array, "physical"]:
    """Coordinates (space.dim,) at which the likelihood for independent pairs is evaluated."""
    adjustment, difference = adjusted(z[: posterior.space.dim], posterior)
    return jnp.asarray(adjustment.center) + jnp.asarray(adjustment.matrix) @ difference


def evaluate_many(
    points: Points, posterior: Posterior, progress: Callable[[int], None] = lambda done: None
) -> Evaluation:
    """`Evaluation` at points (n, dim), as NumPy arrays with a leading axis; `progress` is given the number done."""
    return _evaluations(points, posterior, progress)  # type: ignore[no-any-return]


def evaluate_from(points: Points, m: Moments, posterior: Posterior) -> Evaluation:
    """`Evaluation` at points (n, dim) from moments (n, n_maps) that were found elsewhere, at `image` of the points.

    Of the nodes of the posterior nothing is used.
    """
    return _evaluations_from((points, m), _without_data(posterior))  # type: ignore[no-any-return]


def parameters_at_images(points: Points, posterior: Posterior) -> dict[str, Values]:
    """Parameters of the model by name, (n,) each, at `image` of points (n, dim): those at which nodes are evaluated."""
    return _at_images(points, _without_data(posterior))  # type: ignore[no-any-return]


def _without_data(posterior: Posterior) -> Posterior:
    return replace(posterior, nodes=Nodes.none(posterior.nodes.q, posterior.nodes.phi))


def inside(points: Points, posterior: Posterior) -> Bool[np.ndarray, "points"]:
    """Whether the density is not zero at points (n, dim)."""
    return np.isfinite(log_densities(points, posterior))


def physical_draws(
    z: Float[Array, "*draws coordinates"],
    posterior: Posterior,
    rng: np.random.Generator,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> tuple[dict[str, Array], Float[Array, "*draws"]]:
    """Draws of the physical parameters, contrast, offset and, where sampled, sigma from draws of z.

    Parameters
    ----------
    z : (..., dim) array
        Draws of the coordinates.
    posterior : Posterior
    rng : numpy Generator
        Source of the conditional draws of (offset, contrast).
    progress : callable
        Called with ("contrast and offset", points done, total).

    Returns
    -------
    draws : dict
        Free parameters of shape (...,), "contrast" and "offset" (and "sigma") of shape (..., n_maps).
    log_density : (...,) array
        At the draws.
    """
    distinct, which = np.unique(z.reshape(-1, posterior.dim), axis=0, return_inverse=True)
    count, which = len(distinct), which.reshape(z.shape[:-1])
    at = evaluate_many(distinct, posterior, lambda done: progress("contrast and offset", done, count))
    scaling = scaling_draws(ScalingPosterior(*(values[which] for values in at.scaling)), rng)
    draws = {name: at.params[name][which] for name in posterior.space.free_names}
    draws["contrast"], draws["offset"] = scaling[..., 1], scaling[..., 0]
    if posterior.sigma is None:
        draws["sigma"] = np.exp(z[..., posterior.space.dim :])
    return draws, at.log_density[which]


def _split(z: jax.Array, posterior: Posterior) -> tuple[jax.Array, jax.Array]:
    """Coordinates and noise of every map."""
    if posterior.sigma is not None:
        return z, jnp.asarray(posterior.sigma)
    return z[: posterior.space.dim], jnp.exp(z[posterior.space.dim :])


def adjusted(own: jax.Array, posterior: Posterior) -> tuple[Adjustment, jax.Array]:
    """Adjustment at coordinates (space.dim,), and these minus its centre."""
    adjustment = posterior.calibration.at(own)
    return adjustment, own - jnp.asarray(adjustment.center)


def _moments_at(own: jax.Array, posterior: Posterior) -> Moments:
    """Moments under the model; NaN where it excludes the point, at which it is never evaluated."""
    space, where = posterior.space, image(own, posterior)
    usable = space.supported(where) & jnp.isfinite(where).all()
    m = moments(space.model, space.physical(where), posterior.nodes)
    return m._replace(g=jnp.where(usable, m.g, jnp.nan))


def _evaluation_from(
    z: jax.Array, m: Moments, sigma: jax.Array, adjustment: Adjustment, difference: jax.Array, posterior: Posterior
) -> Evaluation:
    total = marginal_log_likelihood(m, sigma, posterior.scaling, adjustment, difference).sum()
    total += log_prior(z, posterior)
    total = jnp.where(jnp.isfinite(total), total, -jnp.inf)
    scaling = scaling_posterior(m, sigma, posterior.scaling, adjustment, difference)
    return Evaluation(total, m, posterior.space.physical(z[: posterior.space.dim]), scaling, *scaling.moments())


class Scoring(NamedTuple):
    """Log density at a point with its gradient and expected curvature.

    Value, gradient (d,), and information (d, d): Fisher information of the data, offset and contrast eliminated, plus
    that of the priors; positive semidefinite everywhere.
    """

    value: Float[Leaf, ""]
    gradient: Float[Leaf, "coordinates"]
    information: Float[Leaf, "coordinates coordinates"]


def scoring(z: Float[jax.Array, "coordinates"], posterior: Posterior) -> Scoring:
    """`Scoring` at coordinates z (space.dim,), for fixed noise.

    One forward derivative of g per coordinate gives everything: moments change by sums of the data times these. They
    are summed map by map, so that derivatives at all nodes of all maps never exist at once, and by products with
    vectors, of which the rounding does not depend on the number of threads.
    """
    space, nodes = posterior.space, posterior.nodes
    sigma = jnp.asarray(posterior.sigma)
    usable = space.supported(image(z, posterior))

    def of_map(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        """Sums of w f f' and of w y f over the nodes of a map, where f is (1, g, derivatives of g)."""
        weight, weight_y, q, phi = arrays
        one = nodes._replace(weight=weight[None], q=q[None], phi=phi[None])

        def correlation(z: jax.Array) -> jax.Array:
            return one.correlation(space.model, space.physical(image(z, posterior)))[0]

        g, slopes = jax.vmap(lambda along: jax.jvp(correlation, (z,), (along,)), out_axes=(None, 0))(jnp.eye(len(z)))
        rows = jnp.concatenate([jnp.ones_like(g)[None], g[None], slopes])
        return jax.lax.map(lambda row: rows @ (row * weight), rows), rows @ weight_y

    products, data = jax.lax.map(of_map, (nodes.weight, nodes.weight_y, jnp.asarray(nodes.q), jnp.asarray(nodes.phi)))

    def likelihood(sums: tuple[jax.Array, ...], z: jax.Array) -> tuple[jax.Array, Moments]:
        m = moments_from(nodes.sums, nodes.center, *sums)
        return marginal_log_likelihood(m, sigma, posterior.scaling, *adjusted(z, posterior)).sum(), m

    sums = (products[:, 0, 1], products[:, 1, 1], data[:, 1])
    (value, m), (by_sums, by_z) = jax.value_and_grad(likelihood, argnums=(0, 1), has_aux=True)(sums, z)
    across, both = products[:, :2, 2:], products[:, 2:, 2:]
    gradient = by_sums[0] @ across[:, 0] + 2 * by_sums[1] @ across[:, 1] + by_sums[2] @ data[:, 2:] + by_z

    mean, _ = scaling_posterior(m, sigma, posterior.scaling, *adjusted(z, posterior)).moments()
    noise = effective_noise(sigma, posterior.calibration)
    scale = posterior.scaling.precision_at(mean) * noise[:, None] ** 2
    pair = two_by_two.matrix(m.weight + scale[:, 0], m.g, m.gg + scale[:, 1] + 1e-30)
    explained = jnp.einsum("mia,mij,mjb->mab", across, two_by_two.inverse(pair), across)
    information = jnp.einsum("m,mab->ab", (mean[:, 1] / noise) ** 2, both - explained)

    prior, pull = jax.value_and_grad(space.log_prior)(z)
    total = jnp.where(usable & jnp.isfinite(value + prior), value + prior, -jnp.inf)
    return Scoring(total, gradient + pull, information + space.prior_information(z))


_scorings, _evaluations = at_points(scoring), at_points(evaluation)
_at_images = at_points(lambda z, posterior: posterior.space.physical(image(z, posterior)))


@at_points
def _evaluations_from(point: tuple[jax.Array, Moments], posterior: Posterior) -> Evaluation:
    z, m = point
    own, sigma = _split(z, posterior)
    return _evaluation_from(z, m, sigma, *adjusted(own, posterior), posterior)


def score_many(points: Points, posterior: Posterior) -> Scoring:
    """`Scoring` at points (n, space.dim), as NumPy arrays with a leading axis."""
    return _scorings(points, posterior)  # type: ignore[no-any-return]


def log_densities(points: Points, posterior: Posterior, progress: Callable[[int], None] = lambda done: None) -> Values:
    """Log density at points (n, dim)."""
    return np.asarray(evaluate_many(points, posterior, progress).log_density)
