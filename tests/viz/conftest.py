import pytest
from kohlrausch import KOHLRAUSCH_TRUTH, Kohlrausch

from benchmarks.example_results import Example, example_result


@pytest.fixture(scope="session")
def laminar() -> Example:
    """Seven parameters, many angles, dead frames."""
    phi = tuple(float(15 * k) for k in range(-6, 7))
    return example_result(phi=phi, num_frames=50, sigma=0.02, bad_frames=(10, 11, 30), shape=(4, 100))


@pytest.fixture(scope="session")
def static() -> Example:
    """Three parameters, one angle, one chain."""
    settings = {"method": "laplace", "uncertainty": "independent", "shape": (1, 300)}
    return example_result("static", phi=(7.5,), num_frames=60, bad_frames=(0, 20), **settings)


@pytest.fixture(scope="session")
def refused() -> Example:
    return example_result(phi=(0.0, 80.0), num_frames=40, fixed=("alpha", "phi0"), verdict="REFUSED", shape=(2, 80))


@pytest.fixture(scope="session")
def waves() -> Example:
    """Four wave vectors, three angles each."""
    q = tuple(wave for wave in (0.004, 0.006, 0.008, 0.01) for _ in range(3))
    return example_result(q=q, phi=(0.0, 45.0, 90.0) * 4, num_frames=40, shape=(2, 80))


@pytest.fixture(scope="session")
def own() -> Example:
    """A model that is not registered, at two wave vectors."""
    return example_result(
        Kohlrausch(q_ref=0.004), q=(0.004, 0.006), phi=(0.0, 0.0), num_frames=40, truth=KOHLRAUSCH_TRUTH, shape=(2, 80)
    )
