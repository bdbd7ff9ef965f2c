"""Types of arrays in signatures, where docstrings give shapes and units, and arrays as plain values."""

import json
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
AnyArray: TypeAlias = NDArray[Any]


def plain(value: Any) -> Any:
    """The same as JSON can hold it: arrays as lists, None for what is not finite."""
    return json.loads(json.dumps(value, default=lambda array: array.tolist()), parse_constant=lambda name: None)
