from dataclasses import replace

import numpy as np
import pytest
from kohlrausch import KOHLRAUSCH_TRUTH, Kohlrausch

from benchmarks.example_results import Example, example_result
from homodyne.result.record import MCMCResult


@pytest.fixture(scope="session")
def laminar() -> Example:
    return example_result(num_frames=40, shape=(4, 50), bad_frames=(3, 4))


@pytest.fixture(scope="session")
def static() -> Example:
    settings = {"method": "laplace", "uncertainty": "independent", "verdict": "CORRECTED"}
    return example_result("static", phi=(7.5,), num_frames=30, shape=(1, 60), fixed=("alpha",), **settings)


@pytest.fixture(scope="session")
def refused() -> Example:
    return example_result("static", phi=(0.0,), num_frames=30, shape=(2, 20), verdict="REFUSED")


@pytest.fixture(scope="session")
def waves() -> Example:
    """Three wave vectors, two angles each."""
    q, phi = (0.004, 0.004, 0.006, 0.006, 0.00812345, 0.00812345), (0.0, 90.0) * 3
    return example_result("static", q=q, phi=phi, num_frames=30, shape=(2, 40))


@pytest.fixture(scope="session")
def own() -> Example:
    """A model that is not registered, with an option."""
    return example_result(
        Kohlrausch(q_ref=0.004), q=(0.004, 0.006), phi=(0.0, 0.0), num_frames=30, truth=KOHLRAUSCH_TRUTH, shape=(2, 50)
    )


@pytest.fixture(scope="session")
def consensus(laminar: Example) -> MCMCResult:
    return replace(
        laminar.result,
        method="cmc",
        num_shards=3,
        combination_method="weighted",
        per_shard_diagnostics=[{"shard": k, "rhat": {"D0": 1.0 + k}, "failed": False} for k in range(3)],
        diagnostics={"cmc": {"q_test": np.float64(0.3)}, "warnings": ["shard 2 was slow"]},
    )


@pytest.fixture(scope="session")
def generic() -> MCMCResult:
    """A model that knows nothing of angles: vectors, a slash in a name, special numbers in statistics."""
    rng = np.random.default_rng(1)
    return MCMCResult(
        samples={"weights/layer": rng.normal(size=(2, 30, 2, 3)), "100%": rng.normal(size=(2, 30))},
        parameter_names=("weights/layer", "100%"),
        sample_stats={
            "lp": np.where(rng.random((2, 30)) < 0.1, -np.inf, 1e-310),
            "energy": np.full((2, 30), np.nan),
            "tree_depth": rng.integers(0, 10, (2, 30)),
            "diverging": rng.random((2, 30)) < 0.5,
        },
        analysis_mode="regression",
        method="cmc",
        uncertainty="independent",
        verdict="UNCERTIFIED",
        num_points=1000,
        seed=2**63,
        diagnostics={"rhat": {"100%": float("nan")}, "matrix": np.eye(2), "none": None, "text": "Å °\n"},
        config={"data": {"rows": (1, 2)}, "flag": True},
        num_shards=1,
        combination_method="average",
    )
