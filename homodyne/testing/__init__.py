"""For tests of what is added to the package: checks of each kind of thing, exact answers, assertions about draws.

    check_model, check_backend, check_combiner, check_reader    what one of these has to keep to
    assert_mean, assert_covariance, assert_quantiles, ...       in `statistics`: tolerances are the Monte Carlo error
    conjugate, densities                                        problems whose posterior is known
    regression                                                  shards for backends, and a worker that is killed once

The tests of the package use the same.
"""

from homodyne.physics.checks import check_model
from homodyne.testing.backends import check_backend
from homodyne.testing.combiners import check_combiner
from homodyne.testing.readers import check_reader
from homodyne.testing.statistics import assert_covariance, assert_mean, assert_quantiles, assert_same_distribution

__all__ = [
    "assert_covariance",
    "assert_mean",
    "assert_quantiles",
    "assert_same_distribution",
    "check_backend",
    "check_combiner",
    "check_model",
    "check_reader",
]
