"""What data and densities must satisfy so that a product over shards is the full posterior.

Float64 throughout, and a likelihood that is a product over observations: both are tried on a few rows of the data,
before anything is sampled.
"""

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import PyTree

from homodyne.arguments import Faults, as_names, shown
from homodyne.arrays import AnyArray, Array, as_array
from homodyne.errors import InputError
from homodyne.optimization.cmc.models.model import Model

Arrays = Mapping[str, npt.ArrayLike]
JOINED = 1 << 30  # bytes of data, up to which one process evaluates all of them
ROWS = 4  # observations on which a model is tried
SAME = 1e-9  # relative difference of two evaluations that should agree
NARROW = re.compile(r"\b(?:b?f16|f32)\[")  # float types below float64 in the text of a jaxpr


def check_arrays(data: Arrays) -> dict[str, AnyArray]:
    """Return data as NumPy arrays, not copied, after checking them.

    Raises
    ------
    InputError
        For anything but a mapping of numerical arrays of one common, positive length; for floats below float64.
    """
    if not isinstance(data, Mapping) or not data:
        raise InputError(f"data must be a mapping of at least one array by name, got {shown(data)}")
    for name, value in data.items():
        if np.ma.is_masked(value):
            count = np.count_nonzero(np.ma.getmaskarray(np.asanyarray(value)))
            raise InputError(
                f"data[{name!r}] has {count} masked values; expected a value at "
                "every observation. Leave the masked observations out of every array."
            )
    arrays = {name: as_array(f"data[{shown(name)}]", value) for name, value in data.items()}
    for name, value in arrays.items():
        if value.ndim == 0 or len(value) == 0:
            raise InputError(f"data[{name!r}] has shape {value.shape}: its first axis must count the observations")
        if value.dtype.kind not in "biuf" or (value.dtype.kind == "f" and value.dtype != np.float64):
            raise InputError(
                f"data[{name!r}] is {value.dtype}, expected float64, integers or booleans; "
                "convert it on purpose with .astype(numpy.float64)"
            )
    lengths = {name: len(value) for name, value in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the arrays of data count different numbers of observations: {lengths}")
    return arrays


def check_observations(data: Arrays) -> dict[str, AnyArray]:
    """Return data as `check_arrays` does, after looking for values that are no numbers.

    Raises
    ------
    InputError
        As `check_arrays`, and for NaN or infinite values.
    """
    arrays = check_arrays(data)
    with Faults() as faults:
        for name, value in arrays.items():
            bad = ~np.isfinite(value).reshape(len(value), -1).all(axis=1)
            if bad.any():
                faults.add(
                    f"data[{name!r}] has NaN or infinite values at {np.count_nonzero(bad)} of {bad.size} observations, "
                    f"the first is number {np.argmax(bad)}; leave these observations out of every array"
                )
    return arrays


def load_arrays(arrays: Arrays) -> dict[str, jax.Array]:
    """Return checked data as JAX arrays; errors as in `check_arrays`."""
    return {name: jnp.asarray(value) for name, value in check_arrays(arrays).items()}


def some_rows(data: dict[str, AnyArray]) -> dict[str, AnyArray]:
    """Copy a few observations, spread evenly over the data."""
    length = len(next(iter(data.values())))
    index = np.unique(np.linspace(0, length - 1, ROWS).astype(int))
    return {name: np.array(value[index]) for name, value in data.items()}


def halves(rows: dict[str, AnyArray]) -> list[dict[str, AnyArray]]:
    """Split rows in two; a single row has no parts."""
    length = len(next(iter(rows.values())))
    if length == 1:
        return []
    cut = length // 2
    return [{name: value[part] for name, value in rows.items()} for part in (slice(cut), slice(cut, None))]


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names as a tuple; an InputError when there are none, or two are the same."""
    return as_names("names", names)


def float64_scalar(value: jax.Array, what: str) -> jax.Array:
    """Return a value that is a float64 scalar; an InputError for any other."""
    if jnp.shape(value) != () or jnp.result_type(value) != jnp.float64:
        raise InputError(f"{what} must be a float64 scalar, got {jnp.result_type(value)} of shape {jnp.shape(value)}")
    return value


@contextmanager
def on_rows(rows: Mapping[str, AnyArray]) -> Iterator[None]:
    """Turn what a model raises on a few observations into an InputError that says so."""
    try:
        yield
    except InputError:
        raise
    except jax.errors.JAXTypeError as error:
        raise InputError(
            "the model's Python code or its array shapes depend on values of parameters or data, so that it cannot be "
            f"compiled: use numbers for sizes, and jax.numpy for arithmetic and choices ({str(error).splitlines()[0]})"
        ) from error
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the model cannot be evaluated on {len(next(iter(rows.values())))} of the observations, as on a shard: "
            f"{error}"
        ) from error


def check_float64(model: Model, z: jax.Array, rows: dict[str, AnyArray]) -> None:
    """Search both densities for operations below float64: a cast back would hide them in the result's type.

    Raises
    ------
    InputError
        When there are some, or the model cannot be traced by JAX.
    """
    with on_rows(rows):
        texts = {
            "prior": str(jax.make_jaxpr(model.log_prior)(z)),
            "likelihood": str(jax.make_jaxpr(model.log_likelihood)(z, model.load(rows), 1.0)),
        }
    for what, text in texts.items():
        if NARROW.search(text):
            raise InputError(
                f"the log {what} computes with less than float64 somewhere; log densities of large data lose "
                "their digits there: remove float32 constants and casts from the model"
            )


def check_product(model: Model, z: jax.Array, rows: dict[str, AnyArray]) -> None:
    """Check on a few observations that the log likelihood is a sum over them; an InputError when it is not."""
    parts = halves(rows)
    if not parts:
        return
    program = jax.jit(model.log_likelihood)
    with on_rows(rows):
        whole, *pieces = (float(program(z, model.load(part), 1.0)) for part in (rows, *parts))
    size = abs(whole) + sum(map(abs, pieces))
    if np.isfinite(size) and abs(whole - sum(pieces)) > SAME * size:
        raise InputError(
            f"the log likelihood of {len(next(iter(rows.values())))} observations is {whole:.10g}, "
            f"that of their halves adds up to {sum(pieces):.10g}: it is no product over observations, and cannot be "
            "split over shards. Check shapes that broadcast (y of shape (n, 1) against (n,)), plates of a fixed size, "
            "and terms that are computed from all observations together"
        )


class ArrayModel(Model):
    """A model of arrays by name whose leading axis counts observations; subclasses set `_names`."""

    _names: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the d coordinates."""
        return self._names

    @abstractmethod
    def constrain(self, z: jax.Array) -> dict[str, jax.Array]:
        """Return what has a name at z (d,)."""

    def load(self, arrays: Mapping[str, AnyArray]) -> dict[str, jax.Array]:
        """Check the arrays of a shard and hand them to JAX."""
        return load_arrays(arrays)

    def joined(self, shards: Iterable[PyTree]) -> PyTree | None:
        """All data, where they are few enough to be looked at in one process."""
        parts, size = [], 0
        for shard in shards:
            parts.append(shard)
            size += sum(value.nbytes for value in jax.tree.leaves(shard))
            if size > JOINED:
                return None
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)

    def dealt_anew(self, shards: Sequence[PyTree], rng: np.random.Generator) -> list[PyTree] | None:
        """Shards of the same sizes with the observations dealt out at random."""
        whole = self.joined(shards)
        if whole is None:
            return None
        sizes = [self.num_points(shard) for shard in shards]
        order = rng.permutation(sum(sizes))
        parts = np.split(order, np.cumsum(sizes)[:-1])
        return [jax.tree.map(lambda array: array[part], whole) for part in parts]  # noqa: B023

    def finish(self, z: Array, merged: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws of everything that has a name, (chain, draw, ...) each, from draws z (chain, draw, d)."""
        values = jax.jit(jax.vmap(jax.vmap(self.constrain)))(jnp.asarray(z))
        return {name: np.asarray(value) for name, value in values.items()}

    def check_densities(self, rows: dict[str, AnyArray]) -> None:
        """Try both densities on a few observations; errors as of `check_float64` and `check_product`."""
        z = some_point(self)
        check_float64(self, z, rows)
        check_product(self, z, rows)


def some_point(model: Model) -> jax.Array:
    """A point (d,) on which models are tried."""
    return jnp.asarray(np.random.default_rng(0).uniform(-1.0, 1.0, len(model.names)))
