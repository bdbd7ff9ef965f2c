"""``homodyne doctor``: an installation that works, and what is wrong with one that does not."""

import jax.numpy as jnp
import pytest

from homodyne.cli import doctor

pytestmark = pytest.mark.slow


def test_an_installation_that_works(homodyne):
    outcome = homodyne("doctor")
    assert outcome.code == 0, outcome
    assert outcome.out.count("ok    ") == 6
    for part in ("commit", "cores", "JAX computes in float64", "the truth is 10000", "of the exact posterior"):
        assert part in outcome.out


def test_what_is_wrong_is_named(homodyne, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    quick = [one for one in doctor._checks() if not one[0].startswith(("consensus", "fit"))]
    monkeypatch.setattr(doctor, "_checks", lambda: quick)
    monkeypatch.setattr(jnp, "ones", lambda shape: jnp.zeros(shape, "float32"))  # planted
    outcome = homodyne("doctor")
    assert outcome.code == 4
    assert "FAIL  folder of temporary files" in outcome.err
    assert "FAIL  double precision: JAX computes in float32" in outcome.err
