"""Types and shapes in signatures are checked in every call while tests run, and only then."""

import subprocess
import sys

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from homodyne.certificate.bend import weighted_moments
from homodyne.likelihood.direct import moments_of_sums
from homodyne.noise.sources import share_of
from homodyne.physics.model import find_model
from homodyne.physics.space import parameter_space

SPACE = parameter_space(find_model("static"), np.arange(1.0, 11.0))


@pytest.mark.parametrize(
    ("function", "right", "wrong"),
    [
        (SPACE.canonical, [(5, 3)], [()]),
        (SPACE.parameters_at, [(5, 3)], [(3,)]),
        (moments_of_sums, [(2,), (2, 5), (4, 2, 3)], [(2,), (3, 5), (4, 2, 3)]),
        (share_of, [(4,), (4,)], [(4,), (3,)]),
        (weighted_moments, [(9, 2), (9,)], [(9, 2), (8,)]),
    ],
    ids=["physics", "physics, compiled", "likelihood", "noise", "certificate"],
)
def test_a_wrong_shape_is_seen_in_every_room(function, right, wrong):
    function(*(np.full(shape, 0.5) for shape in right))
    with pytest.raises(TypeCheckError):
        function(*(np.full(shape, 0.5) for shape in wrong))


def test_a_wrong_type_is_seen():
    with pytest.raises(TypeCheckError):
        share_of(np.full(4, 1), np.full(4, 0.5))


def test_nothing_is_checked_in_programs():
    program = "import numpy as np; from homodyne.noise.sources import share_of; print(share_of(np.full(4, 1), 0.5))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[0.66666667 0.66666667 0.66666667 0.66666667]\n"
