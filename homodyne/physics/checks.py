"""What a correlation model has to keep to, tried on draws from its prior: `check_model`, for models of one's own."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from homodyne.arrays import AnyArray
from homodyne.errors import InputError
from homodyne.physics.model import CorrelationModel, Params, check_model_class, check_parameters
from homodyne.physics.space import ParameterSpace, parameter_space

_T = 0.1 * np.arange(1, 101)  # s; the record where none is given
_Q, _PHI = np.array([[0.005], [0.01]]), np.array([[10.0], [70.0]])  # of two maps
_GAP = 2e6
_DRAWS = 8
_ROUNDING = 1e-9


def check_model(model: CorrelationModel, space: ParameterSpace | None = None) -> None:
    """Try a model on draws from its prior; takes less than a second.

    Parameters
    ----------
    model : CorrelationModel
    space : ParameterSpace, optional
        Priors, fixed values and record with which the model is going to be fitted; by default its own priors and 100
        frames, one every 0.1 s.

    Raises
    ------
    InputError
        The model is incomplete; JAX cannot compile it; a result has another shape or precision than it should; g is not
        1 at equal times, leaves [0, 1], or has a value or slope that is not finite; ``|field|²`` is not g; or the
        coordinates cannot be inverted.
    """
    check_model_class(type(model))
    check_parameters(model)
    gap = _GAP if model.needs_gap else np.nan
    _check_shapes(model, gap)
    chosen = parameter_space(model, _T) if space is None else space
    rng = np.random.default_rng(0)
    z = chosen.draw_supported(rng, _DRAWS)
    first, last = np.asarray(chosen.ends)
    record = np.array([first, 0.9 * first + 0.1 * last, last])
    z = np.concatenate([z, chosen.made_visible(z, record, _Q, gap, rng)])
    t1 = np.repeat(record, 3)
    t2 = t1 + np.tile([0.0, 0.01, 1.0], 3) * (last - first)  # some lie beyond the record
    params, g, slopes, squared = (jax.tree.map(np.asarray, x) for x in _values(z, chosen, t1, t2, gap))
    _check_values(model, g, slopes, squared, (t1 == t2, t2 <= last))
    if not np.allclose(chosen.coordinates(params), z, rtol=1e-6, atol=1e-6):
        _refuse(model, "coordinates do not lead back to where they came from: power laws have to be independent")


def _check_shapes(model: CorrelationModel, gap: float) -> None:
    """Trace all methods, without compiling them."""
    scalar, times, grid, maps, wide, draws = (
        np.ones(shape) for shape in ((), (7,), (2, 5, 7), (2, 1), (2, 1, 1, 1), (3, 1, 1))
    )
    one, many = (dict.fromkeys(model.parameter_names, value) for value in (scalar, draws))
    cases = ((one, times, maps, (2, 7)), (many, times, maps, (3, 2, 7)), (one, grid, wide, (2, 2, 5, 7)))
    for params, t, q, shape in cases:
        _trace(model, "g", model.g, (params, t, t, q, q, gap), shape, (float,))
        if _own_field(model):
            _trace(model, "field", model.field, (params, t, t, q, q, gap), shape, (float, complex))
    _trace(model, "supported", model.supported, (one, scalar, scalar), (), (bool,))
    for law in model.rates():
        _trace(model, f"the rate {law.name}", law.value, (one, times), (7,), (float,))


def _trace(
    model: CorrelationModel,
    method: str,
    function: Callable[..., PyTree],
    arguments: tuple[PyTree, ...],
    shape: tuple[int, ...],
    dtypes: tuple[type, ...],
) -> None:
    try:
        found = jax.eval_shape(function, *arguments)
    except KeyError as error:
        _refuse(model, f"{method} asks for {error}, but its parameters are {', '.join(model.parameter_names)}", error)
    except (TypeError, ValueError, IndexError) as error:  # those of JAX are among them
        said = str(error).strip().partition("\n")[0]
        _refuse(
            model,
            f"{method} cannot be compiled for arrays: {said}; write it with jax.numpy, choose with jnp.where in place "
            "of if, and keep shapes independent of values",
            error,
        )
    if getattr(found, "shape", None) != shape:
        given = ", ".join(str(getattr(x, "shape", "")) for x in arguments if not isinstance(x, dict))
        _refuse(
            model,
            f"{method} returns {getattr(found, 'shape', found)} for arguments of shape {given}, expected {shape}: all "
            "arguments broadcast, also one that is not used (add 0.0 * phi)",
        )
    if found.dtype not in [np.dtype(kind) for kind in dtypes]:
        expected = " or ".join(str(np.dtype(kind)) for kind in dtypes)
        _refuse(model, f"{method} returns {found.dtype}, expected {expected}")


@jax.jit
def _values(z: jax.Array, space: ParameterSpace, t1: jax.Array, t2: jax.Array, gap: jax.Array) -> tuple[PyTree, ...]:
    """Parameters, g, slopes of its sum and |field|² at every point z."""
    model = space.model

    def summed(params: Params) -> tuple[jax.Array, jax.Array]:
        g = model.g(params, t1, t2, _Q, _PHI, gap)
        return g.sum(), g

    def at(point: jax.Array) -> tuple[PyTree, ...]:
        params = space.physical(point)
        slopes, g = jax.grad(summed, has_aux=True)(params)
        squared = jnp.abs(model.field(params, t1, t2, _Q, _PHI, gap)) ** 2 if _own_field(model) else g
        return params, g, slopes, squared

    return jax.vmap(at)(z)


def _check_values(
    model: CorrelationModel, g: AnyArray, slopes: dict[str, AnyArray], squared: AnyArray, places: Sequence[AnyArray]
) -> None:
    equal, inside = places
    if not np.isfinite(g).all():
        share = f"{np.mean(~np.isfinite(g)):.0%} of draws and times, which go beyond the record"
        unknown = "" if model.needs_gap else "; gap is NaN unless the model says needs_gap = True"
        _refuse(model, f"g is not finite at {share}{unknown}")
    if np.abs(g[..., equal] - 1.0).max() > _ROUNDING:
        worst = g[..., equal].flat[np.abs(g[..., equal] - 1.0).argmax()]
        _refuse(model, f"g is {worst:g} at t1 = t2, expected 1")
    low, high = g[..., inside].min(), g[..., inside].max()
    if low < -_ROUNDING or high > 1.0 + _ROUNDING:
        _refuse(model, f"g ranges from {low:g} to {high:g}, expected values from 0 to 1")
    if bad := [name for name, slope in slopes.items() if not np.isfinite(slope).all()]:
        _refuse(
            model,
            f"the slope of g along {', '.join(bad)} is not finite somewhere, perhaps at t1 = t2: a root or power of 0 "
            "has none, and jnp.where needs safe values in the branch that is not taken",
        )
    if np.abs(squared - g)[..., inside].max() > 1e-6:
        _refuse(model, "the square of |field| is not g")


def _own_field(model: CorrelationModel) -> bool:
    return type(model).field is not CorrelationModel.field


def _refuse(model: CorrelationModel, what: str, cause: Exception | None = None) -> None:
    raise InputError(f"the model {type(model).__qualname__} cannot be used: {what}") from cause
