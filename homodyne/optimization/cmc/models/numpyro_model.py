"""A NumPyro model function as a model of the consensus engine.

Its latent sites make the prior, its observed sites the likelihood; what belongs to neither is refused.
"""

import functools
import warnings
from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import PyTree

from homodyne.arguments import shown
from homodyne.arrays import AnyArray, Array
from homodyne.certificate.density import check_log_density
from homodyne.certificate.mode import Mode
from homodyne.errors import HomodyneWarning, InputError
from homodyne.optimization.cmc.models.splitting import (
    SAME,
    ArrayModel,
    Arrays,
    check_arrays,
    check_names,
    float64_scalar,
    halves,
    load_arrays,
    on_rows,
    some_point,
    some_rows,
)

if TYPE_CHECKING:
    from numpyro.distributions import Distribution
    from numpyro.distributions.transforms import Transform

TracedSite: TypeAlias = dict[str, Any]
"""A site of a trace of NumPyro: its type, name, distribution (fn), value and so on."""

MEASURED = 20.0  # square of deviations over that of their errors, from which values are better coordinates than they
DRAWN = 64  # draws of the prior in one call


@dataclass(frozen=True)
class _Site:
    """A latent site: name, and shape in unconstrained space."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))

    @property
    def labels(self) -> list[str]:
        if not self.shape:
            return [self.name]
        return [f"{self.name}[{','.join(map(str, index))}]" for index in np.ndindex(self.shape)]


class NumPyroModel(ArrayModel):
    """A posterior given by a NumPyro model function ``function(data)``.

    The coordinates are those of ``biject_to(support)`` of the latent sites, flattened in the order of the model. A site
    with location and scale (or `LogNormal`) whose scale depends on other latent sites has (value - location) / scale in
    place of its value, or the posterior of a hierarchical model is a funnel (Papaspiliopoulos, Roberts and Skoeld,
    Statistical Science 22, 59, 2007); `centred` takes the value itself where the data fix it.
    The prior is made of the latent sites, ``log |det dT/dz|`` and `prior_sites`, the likelihood of all other sites with
    ``obs=`` and all other factors. The
    function must give the number of observations from the arrays (``plate("data", len(data["y"]))``), because
    shards are shorter than the data. A few rows of the data are kept, for evaluating the prior.

    Parameters
    ----------
    function
        NumPyro model; pickled by reference, so it must stand in an importable module to run in other processes.
    example_data
        Arrays by name, the leading axis counts observations.
    prior_sites
        Names of the factor and observed sites that belong to the prior: they do not depend on the data, and get its
        power. None where there is no factor site; an empty sequence says that all factors are sums over observations.

    Raises
    ------
    InputError
        For models that cannot be split over shards: without latent or observed sites; with discrete or complex
        latents, factor sites of unknown side, param sites, subsampling; with latents per observation; with a prior
        that depends on the data; with a likelihood that is no product over the observations; with less than float64
        anywhere.
    """

    def __init__(
        self, function: Callable[[PyTree], object], example_data: Arrays, prior_sites: Sequence[str] | None = None
    ) -> None:
        check_log_density(jnp.sum, 1)  # that JAX runs in float64
        self._function, self._prior_sites = function, _names_of(prior_sites)
        self._rows = some_rows(check_arrays(example_data))
        self._sites, self._deterministic = self._inspect(self._rows)
        self._names = check_names([label for site in self._sites for label in site.labels])
        self._centred: dict[str, npt.NDArray[np.bool_]] = {}  # while values are the coordinates, priors are compared
        self._check_prior(some_point(self))
        self.check_densities(self._rows)
        self._centred = {name: np.zeros((), dtype=bool) for name in self._hierarchical()}

    def log_prior(self, z: jax.Array) -> jax.Array:
        """Log density of the latent sites and `prior_sites` in z (d,), Jacobian included."""
        parts = self._prior_by_site(z, self._rows)
        return jnp.sum(jnp.stack(list(parts.values())))

    def log_likelihood(self, z: jax.Array, shard: PyTree, power: float) -> jax.Array:
        """Log probability of the observed sites of a shard at z (d,), but for `prior_sites`."""
        observed = [
            _log_prob(site)
            for name, site in self._trace(z, shard).items()
            if site["type"] == "sample" and site["is_observed"] and name not in (self._prior_sites or ())
        ]
        return float64_scalar(jnp.sum(jnp.stack(observed)), "the sum of the observed sites")

    def prior_draws(self, n: int, rng: np.random.Generator) -> Array:
        """Draws (n', d) of the latent sites in coordinates; standard normal times 3 where a prior is improper."""
        words = rng.integers(2**32, size=(-(-n // DRAWN), DRAWN, 2), dtype=np.uint32)
        drawn = np.concatenate([_draw_program(self)(own) for own in words])[:n]
        return np.asarray(drawn[np.isfinite(drawn).all(axis=1)], dtype=np.float64)

    def prior_draw(self) -> Callable[[jax.Array], jax.Array]:
        """A function of the words (2,) of a random key that gives one of `prior_draws`."""
        from numpyro.distributions import ImproperUniform, biject_to
        from numpyro.handlers import block, seed, substitute, trace

        def one(words: jax.Array) -> jax.Array:
            key = jax.random.wrap_key_data(words)
            far = jax.random.fold_in(key, 1)

            def place(site: TracedSite) -> jax.Array | None:
                if site["type"] != "sample" or not isinstance(_base(site["fn"]), ImproperUniform):
                    return None
                latent = next(own for own in self._sites if own.name == site["name"])
                value: jax.Array = biject_to(site["fn"].support)(3.0 * jax.random.normal(far, latent.shape))
                return value

            model = substitute(seed(self._function, key), substitute_fn=place)
            sites = block(trace(model).get_trace)({name: jnp.asarray(value) for name, value in self._rows.items()})
            drawn = [self._bijection(s.name, sites[s.name]["fn"]).inv(sites[s.name]["value"]) for s in self._sites]
            return jnp.concatenate([jnp.ravel(value) for value in drawn])

        return one

    def constrain(self, z: jax.Array) -> dict[str, jax.Array]:
        """Values of the latent sites and of those deterministic sites that do not depend on the data, at z (d,)."""
        trace = self._trace(z, self._rows)
        return {
            name: jnp.asarray(trace[name]["value"]) for name in [s.name for s in self._sites] + [*self._deterministic]
        }

    def _inspect(self, rows: dict[str, AnyArray]) -> tuple[tuple[_Site, ...], tuple[str, ...]]:
        """List latent and deterministic sites without computing anything, and refuse what cannot be sampled."""
        from numpyro.handlers import block, seed, substitute, trace
        from numpyro.infer.initialization import init_to_uniform

        model = substitute(seed(self._function, rng_seed=0), substitute_fn=init_to_uniform)
        latent: list[_Site] = []
        kinds: dict[str, str] = {}

        def run(data: PyTree) -> None:
            for name, site in block(trace(model).get_trace)(data).items():
                _check_site(site, sides_known=self._prior_sites is not None)
                kinds[name] = "observed" if site.get("is_observed") else site["type"]
                if kinds[name] == "sample":
                    latent.append(_latent_site(site))

        with on_rows(rows):
            jax.eval_shape(run, load_arrays(rows))
        if not latent:
            raise InputError("the model has no latent site: there is nothing to sample")
        observed = {name for name, kind in kinds.items() if kind == "observed"}
        unknown = sorted(set(self._prior_sites or ()) - observed)
        if unknown:
            raise InputError(
                f"prior_sites names {', '.join(map(repr, unknown))}, expected factor or observed sites; the model has "
                f"{', '.join(map(repr, sorted(observed))) or 'none'}"
            )
        if not observed - set(self._prior_sites or ()):
            raise InputError("the model observes nothing: give the data to at least one site by obs=")
        return tuple(latent), tuple(name for name, kind in kinds.items() if kind == "deterministic")

    def _trace(self, z: jax.Array, data: PyTree) -> dict[str, TracedSite]:
        """Run the model at z; latent sites carry their unconstrained value as "u", their transform as "transform"."""
        from numpyro.handlers import block, substitute, trace

        ends = np.cumsum([site.size for site in self._sites])
        parts = {s.name: z[end - s.size : end].reshape(s.shape) for s, end in zip(self._sites, ends, strict=True)}
        used: dict[str, Transform] = {}

        def place(site: TracedSite) -> jax.Array | None:
            if site["type"] != "sample" or site["name"] not in parts:
                return None
            used[site["name"]] = self._bijection(site["name"], site["fn"])
            value: jax.Array = used[site["name"]](parts[site["name"]])
            return value

        model = substitute(self._function, substitute_fn=place)
        isolated = block(trace(model).get_trace)  # from handlers around the caller, as in variational inference
        sites: dict[str, TracedSite] = isolated({name: jnp.asarray(value) for name, value in data.items()})
        for name, transform in used.items():
            sites[name].update(u=parts[name], transform=transform)
        return sites

    def _bijection(self, name: str, distribution: "Distribution") -> "Transform":
        """Transform from coordinates to values of a latent site."""
        from numpyro.distributions import biject_to
        from numpyro.distributions.transforms import AffineTransform, ComposeTransform

        if name not in self._centred:
            return biject_to(distribution.support)
        base, own = _base(distribution), self._centred[name]
        moved = AffineTransform(jnp.where(own, 0.0, base.loc), jnp.where(own, 1.0, base.scale))
        return ComposeTransform([moved, biject_to(base.support)])

    def centred(self, labels: Collection[str]) -> "NumPyroModel":
        """The same model with these coordinates, of latent sites whose scale is a parameter, centred, and no others."""
        model = copy(self)
        model._centred = {
            site.name: np.reshape([label in labels for label in site.labels], site.shape)
            for site in self._sites
            if site.name in self._centred
        }
        return model

    def measured(self, mode: Mode) -> list[str]:
        """Deviations that the data fix far better than the prior, by a mode in coordinates none of which is centred.

        Where the width is not known a mode has a large one and small deviations: their own size is what counts.
        """
        ends, told = np.cumsum([site.size for site in self._sites]), np.diag(mode.precision)
        found: list[str] = []
        for site, end in zip(self._sites, ends, strict=True):
            own = slice(end - site.size, end)
            if site.name in self._centred:
                much = told[own] * np.mean(mode.point[own] ** 2) > MEASURED
                found += [label for label, enough in zip(site.labels, much, strict=True) if enough]
        return found

    def _hierarchical(self) -> tuple[str, ...]:
        """Names of latent sites with location and scale, or `LogNormal`, of which the scale depends on other sites."""
        from numpyro.distributions import LogNormal, constraints

        def scales(z: jax.Array) -> dict[str, jax.Array]:
            sites = self._trace(z, self._rows)
            bases = {site.name: _base(sites[site.name]["fn"]) for site in self._sites}
            return {
                name: base.scale
                for name, base in bases.items()
                if (base.support is constraints.real or isinstance(base, LogNormal))
                and {"loc", "scale"} <= set(base.arg_constraints)
            }

        with on_rows(self._rows):
            one, other = (jax.jit(scales)(sign * some_point(self)) for sign in (1.0, -1.0))
        return tuple(name for name in one if not _equal(one[name], other[name]))

    def _prior_by_site(self, z: jax.Array, data: PyTree) -> dict[str, jax.Array]:
        sites = self._trace(z, data)
        parts = {site.name: _log_prob(sites[site.name]) + _log_det(sites[site.name]) for site in self._sites}
        return parts | {name: _log_prob(sites[name]) for name in self._prior_sites or ()}

    def _check_prior(self, z: jax.Array) -> None:
        """Compare shapes, prior and deterministic sites on different parts of the data."""
        parts = halves(self._rows)
        for part in parts:
            shapes = {site.name: site.shape for site in self._inspect(part)[0]}
            for site in self._sites:
                if shapes.get(site.name) != site.shape:
                    raise InputError(
                        f"the size of site {site.name!r} depends on the number of observations, so it has no value "
                        "that shards could share: integrate it out of the likelihood"
                    )

        @jax.jit
        def evaluate(data: PyTree) -> PyTree:
            sites = self._trace(z, data)
            return self._prior_by_site(z, data), {name: sites[name]["value"] for name in self._deterministic}

        with on_rows(self._rows):
            prior, values = evaluate(load_arrays(self._rows))
            others = [evaluate(load_arrays(part)) for part in parts]
        for name in prior:
            if not all(_equal(other[name], prior[name]) for other, _ in others):
                raise InputError(
                    f"the prior of site {name!r} depends on the data, so that each shard would have another "
                    "one and data would count twice: write numbers in its place"
                    + (", or leave it out of prior_sites" if name in (self._prior_sites or ()) else "")
                )
        varying = sorted(n for n in values if not all(_equal(other[n], values[n]) for _, other in others))
        if varying:
            message = f"deterministic sites {varying} depend on the data and are not reported"
            warnings.warn(message, HomodyneWarning, stacklevel=4)
        self._deterministic = tuple(name for name in self._deterministic if name not in varying)


@functools.lru_cache(maxsize=8)
def _draw_program(model: NumPyroModel) -> Callable[[npt.NDArray[np.uint32]], jax.Array]:
    """Compiled draws (n, d) of the prior from words (n, 2) of random keys."""
    return jax.jit(jax.vmap(model.prior_draw()))


def _names_of(prior_sites: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return names as a tuple; an InputError for a single string, and for what is no name."""
    if isinstance(prior_sites, str):
        raise InputError(f"prior_sites is {prior_sites!r}, expected a sequence of names: ({prior_sites!r},)")
    if not (
        prior_sites is None or (isinstance(prior_sites, Sequence) and all(isinstance(x, str) for x in prior_sites))
    ):
        raise InputError(f"prior_sites is {shown(prior_sites)}, expected a sequence of names")
    return None if prior_sites is None else tuple(dict.fromkeys(prior_sites))


def _check_site(site: TracedSite, sides_known: bool) -> None:
    """Refuse a site that is neither prior nor likelihood, or cannot be sampled by gradients."""
    from numpyro.distributions import Delta, Unit, constraints

    kind, name = site["type"], site["name"]
    if kind == "plate":
        size, subsample = site["args"]
        if subsample is not None and subsample != size:
            raise InputError(
                f"plate {name!r} subsamples {subsample} of {size}: the engine uses all data; drop subsample_size"
            )
    elif kind == "sample":
        base = _base(site["fn"])
        if isinstance(base, Unit) and not sides_known:
            raise InputError(
                f"factor site {name!r} can belong to the prior or to the data, which shards treat differently: name "
                f"it in prior_sites=({name!r},) if it is part of the prior, write prior_sites=() if it is a sum over "
                "observations"
            )
        if not site["is_observed"] and base.support.is_discrete:
            raise InputError(f"latent site {name!r} is discrete ({type(base).__name__}): sum it out of the likelihood")
        if not site["is_observed"] and getattr(base.support, "base_constraint", base.support) is constraints.complex:
            raise InputError(f"latent site {name!r} is complex: sample its real and imaginary part")
        if not site["is_observed"] and isinstance(base, Delta):
            raise InputError(f"latent site {name!r} is a constant (Delta): use numpyro.deterministic")
    elif kind != "deterministic":
        raise InputError(
            f"site {name!r} is of type {kind!r}, expected sample, deterministic and plate sites only: "
            "every parameter needs a prior by numpyro.sample"
        )


def _base(distribution: "Distribution") -> "Distribution":
    """Strip expand, mask and to_event from a distribution."""
    from numpyro.distributions import ExpandedDistribution, Independent, MaskedDistribution

    while isinstance(distribution, ExpandedDistribution | Independent | MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


def _latent_site(site: TracedSite) -> _Site:
    from numpyro.distributions import biject_to

    shape = biject_to(site["fn"].support).inverse_shape(jnp.shape(site["value"]))
    return _Site(site["name"], tuple(shape))


def _log_prob(site: TracedSite) -> jax.Array:
    """Log probability of a site, with the scale of handlers.scale; masks are part of the distribution."""
    value = site["fn"].log_prob(site["value"])
    total: jax.Array = jnp.sum(value if site["scale"] is None else site["scale"] * value)
    return total


def _log_det(site: TracedSite) -> jax.Array:
    """Return log |det dT/dz| of a latent site; scales and masks act on the density of the value, not on this."""
    return jnp.sum(site["transform"].log_abs_det_jacobian(site["u"], site["value"]))


def _equal(one: jax.Array, other: jax.Array) -> bool:
    return jnp.shape(one) == jnp.shape(other) and np.allclose(one, other, rtol=SAME, atol=SAME, equal_nan=True)
