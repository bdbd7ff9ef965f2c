"""Models for the consensus engine from plain JAX functions and from NumPyro model functions.

Start with `as_model`. Data are a mapping of arrays whose leading axis counts observations.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from homodyne.arguments import shown
from homodyne.certificate.density import check_log_density
from homodyne.errors import InputError
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.cmc.models.numpyro_model import NumPyroModel
from homodyne.optimization.cmc.models.splitting import (
    ArrayModel,
    Arrays,
    check_arrays,
    check_names,
    float64_scalar,
    some_rows,
)
from homodyne.references import import_reference

__all__ = ["LogDensityModel", "NumPyroModel", "as_model"]


def as_model(model: object, data: Arrays, prior_sites: Sequence[str] | None = None) -> Model:
    """Turn what a user gives into a `Model`, and try it on a few observations.

    Parameters
    ----------
    model
        A `Model`, or a NumPyro model function ``model(data)``, or where to import one from, as "module:name".
    data
        Arrays by name, the leading axis counts observations; `Model` instances other than `LogDensityModel` may
        take anything.
    prior_sites
        Factor and observed sites of a NumPyro model that belong to the prior, see `NumPyroModel`.

    Raises
    ------
    InputError
        When `model` is neither, or cannot be split over shards of such data.
    """
    if isinstance(model, str):
        model = import_reference(model, "model")
    if prior_sites is not None and isinstance(model, Model):
        raise InputError("prior_sites belongs to NumPyro model functions; other models have a log_prior of their own")
    if isinstance(model, LogDensityModel):
        model.check(data)
        return model
    if isinstance(model, Model):
        return model
    if callable(model):
        return NumPyroModel(model, data, prior_sites)
    raise InputError(
        f"model is {shown(model)}, expected a NumPyro model function model(data), a LogDensityModel, "
        "or another subclass of homodyne.optimization.cmc.models.model.Model"
    )


class LogDensityModel(ArrayModel):
    """A posterior given by plain JAX functions.

    Parameters
    ----------
    names
        Names of the d unconstrained coordinates, for instance ``("mu", "log_sigma")``.
    log_prior
        ``log_prior(z)`` of z (d,): float64 scalar; where z is a transformed parameter, ``log |det dT/dz|`` is
        included.
    log_likelihood
        ``log_likelihood(z, data)``: float64 scalar, a sum over the observations in `data`.
    constrain
        ``constrain(z)`` returns a mapping of named values of any shape, JAX operations only; z by name unless given.

    Raises
    ------
    InputError
        When names are missing or repeated, or the prior is not a float64 scalar.
    """

    def __init__(
        self,
        names: Sequence[str],
        log_prior: Callable[[jax.Array], jax.Array],
        log_likelihood: Callable[[jax.Array, PyTree], jax.Array],
        constrain: Callable[[jax.Array], Mapping[str, Any]] | None = None,
    ) -> None:
        self._names = check_names(names)
        self._log_prior, self._log_likelihood, self._constrain = log_prior, log_likelihood, constrain
        check_log_density(log_prior, len(self._names))

    def log_prior(self, z: jax.Array) -> jax.Array:
        """Log density of the prior in z (d,)."""
        return self._log_prior(z)

    def log_likelihood(self, z: jax.Array, shard: PyTree, power: float) -> jax.Array:
        """Log likelihood of a shard at z (d,)."""
        return float64_scalar(self._log_likelihood(z, shard), "log_likelihood(z, data)")

    def constrain(self, z: jax.Array) -> dict[str, jax.Array]:
        """Return what has a name at z (d,)."""
        if self._constrain is None:
            return {name: z[k] for k, name in enumerate(self._names)}
        return {name: jnp.asarray(value) for name, value in self._constrain(z).items()}

    def check(self, data: Arrays) -> None:
        """Try the model on a few observations.

        Raises
        ------
        InputError
            For arrays or densities of less than float64, or a likelihood that is no product over observations.
        """
        self.check_densities(some_rows(check_arrays(data)))
