"""What every reader of a file format has to pass: `check_reader`."""

from pathlib import Path

import numpy as np

import homodyne
from homodyne.data.readers import open_catalog
from homodyne.registries import FORMATS


def check_reader(name: str, path: str | Path) -> None:
    """Assert that a reader knows a file by its content, and that what it says of it fits together.

    Parameters
    ----------
    name
        Name in `homodyne.registries.FORMATS`.
    path
        A file of this format, and of no other that is known, with the time between frames and the wave vector.

    Raises
    ------
    AssertionError
        The file is not recognised, or not by this reader; lengths, dimensions or parts of a map do not fit together.
    """
    reader = FORMATS.find(name)
    assert name == reader.NAME, f"the reader {name!r} calls itself {reader.NAME!r}"
    with open_catalog(path) as catalog:
        assert catalog.format == name, f"{path} was taken for {catalog.format}"
        n, count = catalog.num_frames, catalog.num_maps
        assert n >= 2, f"{n} frames"
        assert count >= 1, f"{count} maps"
        lengths = {"q": count, "phi": count, "pixels": count, "mean_counts": count, "times": n}
        for field, length in lengths.items():
            values = getattr(catalog, field)
            assert values is None or np.shape(values) == (length,), f"{field} has shape {np.shape(values)}"
        for index in range(count):
            whole, part = np.full((n, n), np.nan, np.float32), np.full((n - 1, n - 1), np.nan, np.float32)
            catalog.read_map(index, slice(0, n), whole)
            catalog.read_map(index, slice(1, n), part)
            upper = np.triu_indices(n - 1, 1)
            same = np.array_equal(part[upper], whole[1:, 1:][upper], equal_nan=True)
            assert same, f"map {index}: part and whole differ"
            assert np.isfinite(whole[np.triu_indices(n, 1)]).any(), f"map {index} has no values above the diagonal"
    data = homodyne.load(path, q="all")
    assert len(data.c2) == count, f"{count} maps are listed, {len(data.c2)} were loaded"
