"""Types of arrays in signatures; arrays of a user; positions spread evenly; plain values.

Names of axes are the same everywhere: frames, pairs (of frames), maps, nodes, tiles; points and draws have coordinates,
which are those that samplers see, chains have draws, and models have parameters.
"""

import json
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from homodyne.arguments import Json, shown
from homodyne.errors import DataError, InputError

Array: TypeAlias = NDArray[np.float64]
AnyArray: TypeAlias = NDArray[Any]

Points: TypeAlias = Float[Array, "points coordinates"]
Values: TypeAlias = Float[Array, "points"]  # log densities, weights, values of a parameter
Vector: TypeAlias = Float[Array, "coordinates"]
Matrix: TypeAlias = Float[Array, "coordinates coordinates"]
PerMap: TypeAlias = Float[AnyArray, "maps"]
Ages: TypeAlias = Float[AnyArray, "frames"]
Map: TypeAlias = Float[AnyArray, "frames frames"]  # values of pairs of frames: c2, weights, correlations
Chains: TypeAlias = Float[Array, "chains draws coordinates"]

# An array in a field of a JAX tree: of NumPy, of JAX, or what JAX puts in its place while it looks at the tree.
Leaf: TypeAlias = Any


def refuse_masked(**arguments: Any) -> None:
    """Refuse masked values of arguments that say where pairs belong, which is needed of all of them.

    Raises
    ------
    DataError
        A value is masked.
    """
    for name, values in arguments.items():
        each = values if isinstance(values, list | tuple) else [values]
        count = sum(int(np.count_nonzero(np.ma.getmaskarray(one))) for one in each if np.ma.is_masked(one))
        if count:
            raise DataError(
                f"{name} has {count} masked values; expected a number everywhere, because only values of c2 may be "
                f"missing. Give {name} without a mask, and mask the values of c2 that are to be left out."
            )


def as_array(name: str, values: object) -> NDArray[Any]:
    """Return `values` as an array, or say that they are none.

    Raises
    ------
    DataError
        They are masked, of different lengths, or no numbers at all.
    """
    refuse_masked(**{name: values})
    try:
        return np.asarray(values)
    except Exception as error:  # whatever an object raises that is asked for its values
        raise DataError(f"{name} is {shown(values)}; expected numbers, in lists of one length.") from error


def real_array(name: str, values: object, *shapes: tuple[int, ...]) -> Array:
    """Return `values` as an array of float64, or say that they are no real numbers or of no shape that is expected.

    Raises
    ------
    InputError
        They are not, or as for `as_array`.
    """
    array = as_array(name, values)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name}: {shown(values)} given; expected real numbers")
    if shapes and array.shape not in shapes:
        raise InputError(f"{name} has shape {array.shape}; expected {' or '.join(map(str, shapes))}")
    return array.astype(np.float64)


def finite_array(name: str, values: object, *shapes: tuple[int, ...]) -> Array:
    """As `real_array`; an InputError also for numbers that are not finite."""
    array = real_array(name, values, *shapes)
    if not np.isfinite(array).all():
        raise InputError(f"{name} has {(~np.isfinite(array)).sum()} numbers that are not finite; expected none")
    return array


def covariance_array(name: str, values: object, d: int) -> Array:
    """Return a covariance (d, d), or say that `values` are none.

    Raises
    ------
    InputError
        They are not finite, symmetric to rounding or positive definite, or as for `real_array`.
    """
    matrix = finite_array(name, values, (d, d))
    size = np.sqrt(np.abs(np.diag(matrix)))
    if (np.abs(matrix - matrix.T) > 1e-8 * np.outer(size, size)).any():
        raise InputError(f"{name} is not symmetric; expected a covariance")
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError as error:
        raise InputError(f"{name} is not positive definite; expected a covariance") from error
    return matrix


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Positions of at most `most` of `count` things, spread evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


def plain(value: object) -> Json:
    """The same as JSON can hold it: arrays as lists, None for what is not finite."""
    return json.loads(json.dumps(value, default=lambda array: array.tolist()), parse_constant=lambda name: None)
