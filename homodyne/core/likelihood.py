"""The likelihood of a block of data, with contrast and offset of every angle integrated out.

    y ~ Normal(offset_phi + contrast_phi * g, sigma_phi^2 / w)

Given g this is linear in (offset, contrast), whose priors are normal, so the integral is closed: with X =
(1, g), prior mean m and precision P, the normal equations A = X'WX/sigma^2 + P and b = X'W(y - Xm)/sigma^2
hold everything. `Likelihood` gives the marginal log likelihood as a JAX function of the curves, and the
conditional distribution of (offset, contrast) from which they are drawn exactly. Everything is formed from
the moments of the block, the only pass over the data.

That is right for independent points. With an `Adjustment` the same likelihood is evaluated at another point and with
more noise, so that its width is that under correlated noise.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from homodyne.noise.adjustment import Adjustment, unadjusted
from homodyne.core.correlation import SHEAR_CONVENTIONS, shear_argument_scale
from homodyne.core.moments import (
    BlockSlot,
    Implementation,
    MomentFunction,
    Moments,
    device_moments,
    host_table,
    moment_function,
    moments_of,
)
from homodyne.core.moments_jax import DenseBlock
from homodyne.core.parameters import ParameterSpace

Array = np.ndarray[Any, np.dtype[Any]]

_Estimate = tuple[jax.Array, jax.Array]

_AT_ONCE = 32  # points whose curves are made together
_WEAK = 1e-10, 1e-30  # precision that says nothing, over that of the data and that of the prior of (offset, contrast)


@dataclass(frozen=True)
class ScalingPrior:
    """Normal prior of the offset and of the contrast of every angle, independent of each other."""

    offset_mean: float = 1.0
    offset_sd: float = 1.0
    contrast_mean: float = 0.5
    contrast_sd: float = 1.0

    @property
    def table(self) -> Array:
        """Mean and precision of (offset, contrast), (2, 2)."""
        return np.array([[self.offset_mean, self.contrast_mean], [self.offset_sd**-2.0, self.contrast_sd**-2.0]])


class Evaluation(NamedTuple):
    """Everything that one pass over the data tells at one point.

    Moments, log prior, marginal log likelihood, physical parameters by name, and conditional mean (n_phi,
    2) and covariance (n_phi, 2, 2) of (offset, contrast).
    """

    moments: Moments
    log_prior: jax.Array
    log_likelihood: jax.Array
    params: dict[str, jax.Array]
    scaling_mean: jax.Array
    scaling_cov: jax.Array


class Linearised(NamedTuple):
    """The model at one point, with derivatives by z in the last axis.

    Curves are the decay exponent (n,), the factor of the strain (n_phi,) and the strain (n,), both 0 without shear;
    then their derivatives, those of the physical parameters by name, gradient and Hessian of the log prior.
    """

    curves: tuple[jax.Array, jax.Array, jax.Array]
    slopes: tuple[jax.Array, jax.Array, jax.Array]
    physical: dict[str, jax.Array]
    prior_slope: jax.Array
    prior_curvature: jax.Array


_SHARED = (
    "_moments",
    "_inside",
    "_curves_of_many",
    "_evaluate",
    "_from_many",
    "_gradients",
    "linearised",
)  # by likelihoods that differ in adjustment


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Marginal likelihood of the physical curves given a block.

    Attributes
    ----------
    slot : BlockSlot
        The data; its block may be exchanged for another one of the same frames and angles.
    space : ParameterSpace
    t : (n,) array
        Times of all frames in s.
    phi : (n_phi,) array
        Angles in degrees.
    q : float
        Wave vector in 1/Å.
    gap : float or None
        Distance of the plates in Å, for laminar flow.
    scaling : ScalingPrior
    shear_convention : "he2024" or "legacy"
    implementation : "numba" or "jax"
    adjustment : Adjustment or None
        Calibration for correlated noise; None for independent points.
    """

    slot: BlockSlot
    space: ParameterSpace
    t: Array
    phi: Array
    q: float
    gap: float | None
    scaling: ScalingPrior = ScalingPrior()
    shear_convention: str = "he2024"
    implementation: Implementation = "numba"
    adjustment: Adjustment | None = None

    @property
    def order(self) -> int:
        """The shear factor is ``(sin x / x)**(2 order)``."""
        return SHEAR_CONVENTIONS[self.shear_convention].order

    @cached_property
    def _moments(self) -> MomentFunction:
        return moment_function(self.slot, self.implementation, self.order)

    def curves(self, z: ArrayLike) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """q^2 int J dt at every frame and, with shear, the pair (h per angle, int γ̇ dt at every frame)."""
        transport, strain, phi0 = self.space.integrals(jnp.asarray(z), self.t)
        decay = self.q**2 * transport
        if strain is None or self.gap is None:
            return decay, None
        return decay, (shear_argument_scale(self.phi, phi0, self.q, self.gap, self.shear_convention), strain)

    def moments(self, z: jax.Array, data: DenseBlock | None = None) -> Moments:
        """Moments of the block under the curves of z; the model's part is NaN where a rate is not positive.

        With `data` they are those of this block on a device, in place of that in the slot.
        """
        usable, (f, shear) = self._supported_curves(z)
        moments = self._moments(f, shear) if data is None else device_moments(data, f, shear, self.order)
        return moments._replace(g=jnp.where(usable, moments.g, jnp.nan))

    def _supported_curves(self, z: jax.Array) -> tuple[jax.Array, Any]:
        """Whether the rates are positive, and the curves; those of some other point where they are not."""
        z = self._image(z)
        usable = self.space.supported(z)
        return usable, self.curves(jnp.where(usable, z, jnp.asarray(self._inside)))

    def moment_tables(self, points: Array, data: DenseBlock | None = None) -> Array:
        """`moments` at points (S, dim), (S, 8 n_phi) with a row of angles for each field of `Moments`.

        Without derivatives, and without a compiled program that has to wait for the host.
        """
        if data is not None:
            return np.array([np.concatenate(self._moments_of_data(z, data)) for z in points])
        out = np.empty((len(points), 8 * len(self.phi)))
        for begin in range(0, len(points), _AT_ONCE):
            some = points[begin : begin + _AT_ONCE]
            filled = np.concatenate([some, np.repeat(some[:1], _AT_ONCE - len(some), axis=0)])
            usable, (decay, shear) = jax.tree.map(np.asarray, self._curves_of_many(filled, self._lens))
            for k in range(len(some)):
                table = host_table(self.slot, decay[k], shear and (shear[0][k], shear[1][k]), self.order)
                table[:, 5] = table[:, 5] if usable[k] else np.nan
                out[begin + k] = table.T.ravel()
        return out

    def evaluate_many(
        self, points: Array, sigma: Array, progress: Callable[[int], None] = lambda done: None
    ) -> Evaluation:
        """`Evaluation` at points (S, dim) with noise (n_phi,) or (S, n_phi), as NumPy arrays with a leading axis.

        Several times faster than one after the other; `progress` is told how many are done.
        """
        sigma, parts = np.broadcast_to(sigma, (len(points), len(self.phi))), []
        for begin in range(0, len(points), _AT_ONCE):
            some, noise = points[begin : begin + _AT_ONCE], sigma[begin : begin + _AT_ONCE]
            rows = np.minimum(np.arange(_AT_ONCE), len(some) - 1)
            m = moments_of(self.moment_tables(some)[rows])
            found = self._from_many(some[rows], noise[rows], m, self._lens)
            parts.append(found)
            progress(begin + len(some))
        return jax.tree.map(lambda *x: np.concatenate(x)[: len(points)], *parts)  # type: ignore[no-any-return]

    @cached_property
    def _from_many(self) -> Callable[..., Evaluation]:
        return jax.jit(jax.vmap(self._evaluation, in_axes=(0, 0, 0, None)))

    def _evaluation(self, z: jax.Array, sigma: jax.Array, m: Moments, lens: Adjustment) -> Evaluation:
        """Everything that follows from the moments."""
        adjusted = self.through(lens)
        total = adjusted.from_moments(m, z, sigma).sum()
        total = jnp.where(jnp.isfinite(total), total, -jnp.inf)
        pair = adjusted.scaling_posterior(m, z, sigma)
        return Evaluation(m, self.space.log_prior(z), total, self.space.physical(z), *pair)

    @cached_property
    def _curves_of_many(self) -> Callable[[Array, Adjustment], Any]:
        return jax.jit(jax.vmap(lambda z, lens: self.through(lens)._supported_curves(z), in_axes=(0, None)))

    @cached_property
    def _moments_of_data(self) -> Callable[[Array, DenseBlock], Moments]:
        return jax.jit(self.moments)

    def _image(self, z: jax.Array) -> jax.Array:
        """Point at which the likelihood of independent points is evaluated."""
        if self.adjustment is None:
            return z
        center = jnp.asarray(self.adjustment.center)
        return center + jnp.asarray(self.adjustment.matrix) @ self.space.apart(z, center)

    def effective(self, sigma: ArrayLike) -> jax.Array:
        """Noise that the likelihood takes instead of sigma (n_phi,)."""
        return jnp.asarray(sigma) * (1.0 if self.adjustment is None else self.adjustment.widening)

    @cached_property
    def _inside(self) -> Array:
        """Some point of the support, so that no invalid curve is ever formed."""
        return np.asarray(self.space.draw_supported(np.random.default_rng(0), 1)[0])

    def log_likelihood(
        self, z: jax.Array, sigma: jax.Array, scaling: jax.Array | None = None, data: DenseBlock | None = None
    ) -> jax.Array:
        """Marginal log likelihood, normalised; -inf where a rate is not positive.

        Parameters
        ----------
        z : (dim,) array
            Coordinates of `space`.
        sigma : (n_phi,) array
            Standard deviation of a point of weight one.
        scaling : (2, 2) array, optional
            Mean and precision of the prior of (offset, contrast), in place of that of `scaling`.
        data : DenseBlock, optional
            As in `moments`.
        """
        total = self.from_moments(self.moments(z, data), z, sigma, scaling).sum()
        return jnp.where(jnp.isfinite(total), total, -jnp.inf)

    @property
    def evaluate(self) -> Callable[..., Evaluation]:
        """Compiled `Evaluation` at z (dim,) and sigma (n_phi,); one program for every block, noise and adjustment.

        A `DenseBlock` as third argument stands in place of the block in the slot.
        """
        program, lens = self._evaluate, self._lens
        return lambda z, sigma, data=None: program(z, sigma, data, lens)

    @property
    def gradients(self) -> Callable[[Any, Any, Any], Any]:
        """Compiled (value, gradient) of the log likelihood and of the log prior, as two pairs.

        Takes z, sigma and the prior of (offset, contrast) as its mean and precision, (2, 2).
        """
        program, lens = self._gradients, self._lens
        return lambda z, sigma, scaling: program(z, sigma, scaling, lens)

    @cached_property
    def _evaluate(self) -> Callable[..., Evaluation]:
        def evaluate(z: jax.Array, sigma: jax.Array, data: DenseBlock | None, lens: Adjustment) -> Evaluation:
            return self._evaluation(z, sigma, self.through(lens).moments(z, data), lens)

        return jax.jit(evaluate)

    @cached_property
    def _gradients(self) -> Callable[..., Any]:
        def gradients(z: jax.Array, sigma: jax.Array, scaling: jax.Array, lens: Adjustment) -> Any:
            likelihood = jax.value_and_grad(self.through(lens).log_likelihood)(z, sigma, scaling)
            return likelihood, jax.value_and_grad(self.space.log_prior)(z)

        return jax.jit(gradients)

    @cached_property
    def linearised(self) -> Callable[[Any], "Linearised"]:
        """Compiled `Linearised` at z (dim,)."""

        def curves(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            decay, shear = self.curves(z)
            return decay, *(shear or (jnp.zeros(len(self.phi)), jnp.zeros(len(self.t))))

        def everything(z: jax.Array) -> Linearised:
            prior = self.space.log_prior
            return Linearised(
                curves(z), jax.jacfwd(curves)(z), jax.jacfwd(self.space.physical)(z),
                jax.grad(prior)(z), jax.hessian(prior)(z),
            )  # fmt: skip

        return jax.jit(everything)

    @cached_property
    def _lens(self) -> Adjustment:
        """The adjustment, or one that changes nothing."""
        return self.adjustment or unadjusted(self.space.dim, len(self.phi))

    def through(self, adjustment: Adjustment) -> "Likelihood":
        """Return the same likelihood with another adjustment; compiled programs are shared."""
        other = replace(self, adjustment=adjustment)
        other.__dict__.update({name: getattr(self, name) for name in _SHARED})
        return other

    def from_moments(self, m: Moments, z: jax.Array, sigma: jax.Array, scaling: jax.Array | None = None) -> jax.Array:
        """Marginal log likelihood of every angle, (n_phi,); arguments as in `log_likelihood`."""
        scaling = jnp.asarray(self.scaling.table) if scaling is None else scaling
        sigma = self.effective(sigma)
        normal, right, misfit = self._normal_equations(m, sigma, scaling)
        root = jnp.linalg.cholesky(normal)
        half = jax.scipy.linalg.solve_triangular(root, right[..., None], lower=True)[..., 0]
        log_det = 2 * jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1) - jnp.log(scaling[1]).sum()
        constant = -0.5 * m.points * jnp.log(2 * jnp.pi * sigma**2) + 0.5 * m.log_weights
        total = constant - 0.5 * (m.scatter / sigma**2 + misfit - (half**2).sum(-1)) - 0.5 * log_det
        if self.adjustment is not None:  # what the prior of offset and contrast says of z, anew
            before, after = self._estimates(m, z, sigma)
            total += _log_evidence(*after, scaling) - _log_evidence(*before, scaling)
        return jnp.asarray(total)

    def _estimates(self, m: Moments, z: jax.Array, sigma: jax.Array) -> tuple[_Estimate, _Estimate]:
        """(offset, contrast) and their information without the prior, for independent points and as adjusted.

        What the data leave open is settled by a prior too weak to matter elsewhere; a second step takes that out.
        """
        expected, precision = jnp.asarray(self.scaling.table)
        data, right, _ = self._normal_equations(m, sigma, jnp.zeros((2, 2)))
        base = jnp.stack([m.mean, jnp.zeros_like(m.mean)], axis=1)
        weak = _WEAK[0] * jnp.diagonal(data, axis1=1, axis2=2) + _WEAK[1] * precision
        found = expected - base
        normal = data + weak[:, :, None] * jnp.eye(2)
        for _ in range(2):
            found = jnp.linalg.solve(normal, (right + weak * found)[..., None])[..., 0]
        before = found + base, normal
        return before, self._lens.pair(self.space.apart(z, jnp.asarray(self._lens.center)), *before)

    def _normal_equations(
        self, m: Moments, sigma: jax.Array, scaling: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """A and b for (offset - ybar, contrast), and the prior's misfit of zero."""
        precision = scaling[1]
        prior_mean = scaling[0] - jnp.stack([m.mean, jnp.zeros_like(m.mean)], axis=1)
        data = jnp.stack([jnp.stack([m.weight, m.g], -1), jnp.stack([m.g, m.gg], -1)], -2) / sigma[:, None, None] ** 2
        right = jnp.stack([jnp.zeros_like(m.yg), m.yg], -1) / sigma[:, None] ** 2 + precision * prior_mean
        return data + jnp.diag(precision), right, (precision * prior_mean**2).sum(-1)

    def scaling_posterior(
        self, m: Moments, z: jax.Array, sigma: jax.Array, scaling: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Conditional mean (n_phi, 2) and covariance (n_phi, 2, 2) of (offset, contrast) given z."""
        scaling, sigma = jnp.asarray(self.scaling.table) if scaling is None else scaling, self.effective(sigma)
        base = jnp.stack([m.mean, jnp.zeros_like(m.mean)], axis=1)
        if self.adjustment is None:
            normal, right, _ = self._normal_equations(m, sigma, scaling)
        else:
            mean, information = self._estimates(m, z, sigma)[1]
            normal = information + jnp.diag(scaling[1])
            right = (information @ (mean - base)[..., None])[..., 0] + scaling[1] * (scaling[0] - base)
        return jnp.linalg.solve(normal, right[..., None])[..., 0] + base, jnp.linalg.inv(normal)


def _log_evidence(mean: jax.Array, information: jax.Array, scaling: jax.Array) -> jax.Array:
    """Log density of estimates (n_phi, 2) of what has a normal prior, less half the log determinant of information."""
    whole, apart = information + jnp.diag(scaling[1]), mean - scaling[0]
    weighed = jnp.linalg.solve(whole, (scaling[1] * apart)[..., None])
    square = (apart[:, None] @ information @ weighed)[:, 0, 0]
    return jnp.asarray(-0.5 * (jnp.linalg.slogdet(whole)[1] + square))


def least_squares(m: Moments) -> tuple[Array, Array]:
    """Fit offset and contrast >= 0 of every angle: weighted sum of squared residuals, and that contrast.

    Both have shape (n_phi,).
    """
    g, weight, gg, yg, scatter = (np.asarray(x) for x in (m.g, m.weight, m.gg, m.yg, m.scatter))
    spread = gg - g**2 / np.where(weight > 0, weight, 1.0)
    contrast = np.maximum(yg / np.where(spread > 1e-12 * gg, spread, np.inf), 0.0)
    return scatter - 2 * contrast * yg + contrast**2 * spread, contrast
