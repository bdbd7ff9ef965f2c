"""Versions of what computes an answer, as stores and results record them."""

from importlib.metadata import version

_LIBRARIES = ("homodyne", "jax", "numpyro", "numpy", "scipy")


def used_versions() -> dict[str, str]:
    """Version of every library that has a part in the numbers, by name."""
    return {library: version(library) for library in _LIBRARIES}
