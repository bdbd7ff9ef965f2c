"""Types of arrays in signatures, where docstrings give shapes and units; positions spread evenly; plain values."""

import json
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
AnyArray: TypeAlias = NDArray[Any]


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Positions of at most `most` of `count` things, spread evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


def plain(value: Any) -> Any:
    """The same as JSON can hold it: arrays as lists, None for what is not finite."""
    return json.loads(json.dumps(value, default=lambda array: array.tolist()), parse_constant=lambda name: None)
