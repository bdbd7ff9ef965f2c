"""Models of one's own: how they are found, and what `check_model` says of those that cannot work."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from homodyne.errors import InputError
from homodyne.physics.checks import check_model
from homodyne.physics.model import (
    MODELS,
    CorrelationModel,
    Growth,
    Parameter,
    PowerLaw,
    Rate,
    find_model,
    find_model_class,
    reference_of,
    register_model,
)
from homodyne.physics.power_laws import rate_integral
from homodyne.physics.priors import make_prior
from homodyne.physics.space import parameter_space

POSITIVE = (0.0, float("inf"))
WIDTH = Parameter("w", ("lognormal", {"median": 1.0, "sigma": 1.0}), support=POSITIVE)
SLOPE = Parameter("a", ("normal", {"mean": 0.0, "sd": 1.0}))


@dataclass(frozen=True)
class Plain(CorrelationModel):
    """exp(-w (t2 - t1)), whatever q is."""

    name = "plain"
    parameters = (WIDTH,)

    def g(self, params, t1, t2, q, phi, gap):
        return jnp.exp(-params["w"] * (t2 - t1)) + 0.0 * q


@pytest.mark.parametrize("name", list(MODELS))
def test_shipped_models_pass(name):
    check_model(find_model(name))


def test_a_plain_model_passes_with_the_space_of_a_fit():
    priors = {"w": make_prior("uniform", {"low": 1.0, "high": 2.0})}
    check_model(Plain(), parameter_space(Plain(), np.array([1.0, 50.0]), priors=priors))


def with_g(function, **attributes):
    """Model like `Plain`, with another g and other attributes."""
    body = {"g": lambda self, p, t1, t2, q, phi, gap: function(p, t1, t2, q, phi, gap), **attributes}
    return dataclass(frozen=True)(type("Bad", (Plain,), body))()


def decay(p, t1, t2, q, phi, gap):
    return jnp.exp(-p["w"] * (t2 - t1)) + 0.0 * q


WRONG = {
    "0.5 at t1 = t2, expected 1": lambda p, t1, t2, q, *_: 0.5 * jnp.exp(-p["w"] * (t2 - t1)) + 0.0 * q,
    "asks for 'v', but its parameters are w": lambda p, t1, t2, q, *_: jnp.exp(-p["v"] * (t2 - t1)) + 0.0 * q,
    r"returns \(7,\) .*expected \(2, 7\)": lambda p, t1, t2, *_: jnp.exp(-p["w"] * (t2 - t1)),
    "returns float32, expected float64": lambda p, t1, t2, q, *_: decay(p, t1, t2, q, 0, 0).astype(jnp.float32),
    "choose with jnp.where in place of if": lambda p, t1, t2, q, *_: decay(p, t1, t2, q, 0, 0) if q[0, 0] > 0 else 1.0,
    "keep shapes independent of values": lambda p, t1, t2, q, *_: decay(p, t1, t2[t2 > t1], q, 0, 0),
    "write it with jax.numpy": lambda p, t1, t2, q, *_: np.exp(-np.asarray(p["w"]) * (t2 - t1)) + 0.0 * q,
    "slope of g along w is not finite": lambda p, t1, t2, q, *_: jnp.exp(-jnp.sqrt(p["w"] * (t2 - t1))) + 0.0 * q,
    "gap is NaN unless the model says needs_gap": lambda p, t1, t2, q, phi, gap: decay(p, t1, t2, q, 0, 0) + 0.0 * gap,
    "ranges from .* expected values from 0 to 1": lambda p, t1, t2, q, *_: jnp.exp(p["w"] * (t2 - t1) / 40) + 0.0 * q,
    "broadcast": lambda p, t1, t2, q, *_: jnp.exp(-p["w"] * (t2 - t1))[None, :3] * q,
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_g_is_told_in_one_sentence(message):
    with pytest.raises(InputError, match=f"the model Bad cannot be used: .*{message}") as told:
        check_model(with_g(WRONG[message]))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"parameters": ()}, "parameters of Bad are none"),
        ({"parameters": (WIDTH, WIDTH)}, "parameters of Bad are w, w: expected different"),
        ({"parameters": (Parameter("contrast", WIDTH.prior),)}, "other than contrast, offset, sigma"),
        ({"coordinates": lambda self: (PowerLaw("r", "w", "b"),)}, "laws of Bad name b: expected parameters, w"),
        ({"coordinates": lambda self: (PowerLaw("r", "w", "w"),)}, "w stands twice"),
        ({"growths": lambda self: (Growth("f", "w", "b", "c", "d"),)}, "laws of Bad name b, c, d: expected parameters"),
        ({"growths": lambda self: (Growth("f", "w", "w", "w", "w"),)}, "w stands twice in the laws of Bad"),
        (
            {"parameters": (WIDTH, SLOPE), "coordinates": lambda self: (PowerLaw("r", "a", "w"),)},
            "amplitudes a of Bad may be negative",
        ),
        ({"rates": lambda self: (Rate("r", "r", "1/s", lambda p, t: p["w"]),)}, r"the rate r returns \(\)"),
        ({"supported": lambda self, p, first, last: p["w"]}, "supported returns float64, expected bool"),
        ({"supported": lambda self, p, first, last: p["w"] > 1e9}, "Bad|plain allows 0 of"),
        ({"field": lambda self, *a: decay(*a)}, r"square of \|field\| is not g"),
        ({"name": None}, "the model Bad lacks name"),
    ],
)
def test_other_wrong_attributes_are_told(attributes, message):
    with pytest.raises(InputError, match=message):
        check_model(with_g(decay, **attributes))


def test_rates_that_are_negative_inside_the_support_are_told():
    offset = Parameter("b", ("normal", {"mean": 0.0, "sd": 10.0}))

    def g(p, t1, t2, q, *_):
        return jnp.exp(-(rate_integral(t1, t2, p["w"], p["a"], p["b"]) ** 2)) + 0.0 * q

    law = lambda self: (PowerLaw("r", "w", "a", "b"),)  # noqa: E731
    with pytest.raises(InputError, match="rates must be positive"):
        check_model(with_g(g, parameters=(WIDTH, SLOPE, offset), coordinates=law))


def test_incomplete_classes_are_told():
    class Undecorated(Plain.__base__):
        name = "undecorated"
        parameters = (WIDTH,)
        g = Plain.g

    @dataclass(frozen=True)
    class Half(CorrelationModel):
        name = "half"

    @dataclass(frozen=True)
    class Demanding(Plain):
        order: int

    @dataclass(frozen=True)
    class Typed(Plain):
        name: str = "typed"

    for kind, message in (
        (Undecorated, "write @dataclass"),
        (Half, "Half lacks g, parameters"),
        (Demanding, "Demanding needs a default"),
        (Typed, "Typed are called name: write these without a type"),
        (int, "not a subclass of"),
    ):
        with pytest.raises(InputError, match=message):
            register_model(kind)


def test_options_are_checked():
    assert find_model("stretched", {"q_ref": 1}).q_ref == 1.0
    for name, options, message in (
        ("laminar_flow", {"shear_convention": "old"}, "'old': expected one of he2024, legacy"),
        ("laminar_flow", {"convention": "legacy"}, "no option convention; did you mean shear_convention"),
        ("static", {"order": 2}, "no option order; it has none"),
        ("stretched", {"free_n": 1}, "free_n of stretched is 1: expected true or false"),
        ("stretched", {"q_ref": "x"}, "q_ref of stretched is 'x': expected a number"),
    ):
        with pytest.raises(InputError, match=message):
            find_model(name, options)


OWN = """
from dataclasses import dataclass
import jax.numpy as jnp
from homodyne.physics.model import CorrelationModel, Parameter

@dataclass(frozen=True)
class Own(CorrelationModel):
    fast: bool = False
    name = "own"
    parameters = (Parameter("w", ("lognormal", {"median": 1.0, "sigma": 1.0}), support=(0.0, float("inf"))),)

    def g(self, params, t1, t2, q, phi, gap):
        return jnp.exp(-params["w"] * (1 + self.fast) * (t2 - t1)) + 0.0 * q
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Empty folder in which Python finds modules; the registry is put back afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


def test_a_module_is_imported_only_where_that_is_allowed(folder):
    (folder / "mine.py").write_text(OWN)
    with pytest.raises(InputError, match="import mine before"):
        find_model("mine:Own", importing=False)
    own = find_model("mine:Own", {"fast": True})
    assert own == find_model("mine:Own", {"fast": True}, importing=False)
    assert own != find_model("mine:Own")
    assert find_model_class("mine:Own") is type(own)
    assert reference_of(own) == "mine:Own"
    assert reference_of(find_model("two_component")) == "heterodyne"
    check_model(own)
    for name, message in (
        ("mine:Owm", "has no attribute 'Owm'"),
        ("yours:Own", "No module named 'yours'"),
        ("mine:jnp", "not a subclass"),
        ("laminarflow", "did you mean laminar_flow"),
    ):
        with pytest.raises(InputError, match=message):
            find_model(name)


def test_an_installed_package_brings_a_model(folder):
    (folder / "theirs.py").write_text(OWN)
    info = folder / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[homodyne.models]\nown = theirs:Own\n")
    with pytest.raises(InputError, match="did you mean own"):
        find_model("ow")
    own = find_model("own", {"fast": True}, importing=False)
    assert type(own).__module__ == "theirs"
    assert reference_of(own) == "own"


def test_the_program_finds_a_module_in_the_working_directory(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    program = Path(sys.executable).with_name("homodyne")
    root = Path(__file__).resolve().parents[2]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from homodyne.cli import main; main()"
    arguments = ["simulate", "own.h5", "--model", "mine:Own", "--set", "w=2", "--set", "fast=true", "--frames", "12"]
    assert program.exists()
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments, "--kind", "independent"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "truth: w=2" in done.stdout
    assert "--mode mine:Own" in done.stdout
