"""Model, options and parameters of a configuration; models of one's own; who may import them."""

import sys
from importlib import import_module

import numpy as np
import pytest
from scipy import stats

from homodyne.config.io import load_config, resolve, to_mapping, to_yaml, with_absolute_paths
from homodyne.config.physics import initial_of, model_of, scaling_of, space_of
from homodyne.config.template import template
from homodyne.errors import ConfigError, InputError
from homodyne.physics.model import MODELS, find_model
from homodyne.physics.models.laminar_flow import LaminarFlow

T = 0.1 * np.arange(1, 101)
SHIPPED = list(MODELS)
OWN = '''
from dataclasses import dataclass, field
from typing import Literal

import jax.numpy as jnp

from homodyne.physics.model import CorrelationModel, Parameter


@dataclass(frozen=True)
class Decay(CorrelationModel):
    """Exponential decay."""

    power: float = field(default=1.0, metadata={"description": "of the lag"})
    sides: tuple[int, ...] = (1, 2)
    kind: Literal["no", "1e3"] = "no"

    name = "decay"
    parameters = (Parameter("speed", ("lognormal", {"median": 1.0, "sigma": 2.0}), "Å/s", support=(0.0, jnp.inf)),)

    def g(self, params, t1, t2, q, phi, gap):
        return jnp.exp(-(params["speed"] * (t2 - t1) ** self.power)) + 0.0 * q * phi
'''


def problems(source=None, overrides=(), **more) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides, **more)
    return str(caught.value)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Name of a model in a module that nobody has imported yet."""
    (tmp_path / "own_decay.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_decay:Decay"
    sys.modules.pop("own_decay", None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"analysis_mode": "laminar"}, "analysis_mode: unknown model 'laminar'"),
        ({"analysis_mode": "laminar"}, "did you mean laminar_flow?"),
        ({"analysis_mode": "nowhere_at_all:Model"}, "cannot import the model 'nowhere_at_all:Model'"),
        ({"analysis_mode": "math:pi"}, "is not a subclass of homodyne.physics.model.CorrelationModel"),
        ({"analysis_mode": 3}, "analysis_mode: 3 given, expected a valid string"),
        ({"model": {"shear_convention": "old"}}, "model.shear_convention: 'old' given, expected 'he2024' or 'legacy'"),
        ({"model": {"shear_conventoin": "legacy"}}, "unknown key; did you mean model.shear_convention? (laminar_flow"),
        ({"model": "laminar_flow"}, "model: 'laminar_flow' given, expected keys and values"),
        ({"analysis_mode": "static", "shear_convention": "legacy"}, "model.shear_convention: no such option in static"),
        ({"analysis_mode": "static", "model": {"x": 1}}, "model.x: unknown key; (static has none)"),
        (
            {"analysis_mode": "static", "parameters": {"D1": {"fixed": 1}}},
            "D1: unknown key; did you mean parameters.D0? (static has D0, alpha, D_offset, contrast, offset)",
        ),
        ({"parameters": {"D0": 5}}, "parameters.D0: 5 given, expected keys and values"),
        ({"parameters": [1]}, "parameters: [1] given, expected keys and values"),
        (
            {"analysis_mode": "static", "parameters": {"gamma_dot_offset": {"fixed": 0}}},
            "gamma_dot_offset: no such parameter in static mode; remove it or set analysis_mode: laminar_flow",
        ),
    ],
)
def test_what_does_not_fit_the_model(given, said):
    found = problems(given)
    assert found.startswith("1 problem in the configuration:\n")
    assert said in found


def test_problems_of_mode_options_and_parameters_at_once():
    found = problems({"model": {"x": 1}, "parameters": {"D0": {"fixd": 1}, "y": {}}, "sed": 1})
    assert found.startswith("4 problems")
    assert "parameters.D0.fixd: unknown key; did you mean parameters.D0.fixed?" in found
    known = problems({"analysis_mode": "statik", "sed": 1, "parameters": {"whatever": {"fixed": 1}}})
    assert known.startswith("2 problems")


def test_shear_convention_stands_in_one_place():
    top = load_config({"shear_convention": "legacy"})
    assert (
        top == load_config({"model": {"shear_convention": "legacy"}}) == load_config(None, ["shear_convention=legacy"])
    )
    assert model_of(top) == LaminarFlow("legacy")
    assert to_mapping(top)["model"] == {"shear_convention": "legacy"}
    assert "shear_convention" not in to_mapping(top)
    assert load_config(top, ["shear_convention=he2024"]) == load_config({"shear_convention": "he2024"})
    assert load_config({"shear_convention": "legacy", "model": {"shear_convention": "legacy"}}) == top
    both = {"shear_convention": "legacy", "model": {"shear_convention": "he2024"}}
    assert "shear_convention is 'legacy' and model.shear_convention is 'he2024': keep the second" in problems(both)


def test_an_empty_parameter_is_none():
    assert load_config({"parameters": {"phi0": {}}}) == load_config()


@pytest.mark.parametrize("mode", SHIPPED)
def test_resolving_says_everything_and_changes_no_prior(mode):
    for changes in ([], [f"parameters.{find_model(mode).parameter_names[-1]}.initial=0.1"]):
        config = load_config({"analysis_mode": mode}, changes)
        full = resolve(config)
        assert full.model.given() == model_of(config).options
        assert list(full.parameters.given()) == list(model_of(config).parameter_names)
        before, after = space_of(config, T), space_of(full, T)
        assert repr((before.priors, before.fixed, before.model)) == repr((after.priors, after.fixed, after.model))
        assert load_config(to_mapping(full)) == full == resolve(full)


def test_space_is_what_the_user_says():
    parameters = {
        "D0": {"prior": {"type": "normal", "mean": 0.0, "sd": 1.0}, "initial": 3.0},
        "alpha": {"bounds": [-1, 0.5]},
        "D_offset": {"fixed": 1.5},
        "contrast": {"prior": {"type": "normal", "mean": 0.2, "sd": 0.1}},
    }
    config = load_config({"analysis_mode": "static", "parameters": parameters})
    space, default = space_of(config, T), space_of(load_config({"analysis_mode": "static"}), T)
    half = stats.halfnorm()  # the support of D0 cuts the normal distribution
    normal = stats.norm(0.0, 1.5)  # the default
    shares = np.array([0.1, 0.5, 0.9])
    assert space.priors["D0"].quantile(shares) == pytest.approx(half.ppf(shares))
    inside = normal.cdf(-1) + shares * (normal.cdf(0.5) - normal.cdf(-1))
    assert space.priors["alpha"].quantile(shares) == pytest.approx(normal.ppf(inside))
    assert space.fixed == {"D_offset": 1.5}
    assert [np.asarray(x).tolist() for x in scaling_of(config)] == [[0.0], [[1.0, 0.2]], [[pytest.approx(100.0)] * 2]]
    start = initial_of(config, space)
    assert start is not None
    params = space.physical(start)
    assert float(params["D0"]) == pytest.approx(3.0)
    assert float(params["alpha"]) == pytest.approx(space.priors["alpha"].median)
    assert initial_of(load_config(), default) is None
    outside = load_config(config, ["parameters.alpha.initial=2"])
    with pytest.raises(InputError, match="inside their bounds"):
        initial_of(outside, space_of(outside, T))


def test_a_model_of_ones_own(own, tmp_path):
    config = load_config({"analysis_mode": own, "model": {"sides": [3]}, "parameters": {"speed": {"initial": 2.0}}})
    assert model_of(config).options == {"power": 1.0, "sides": (3,), "kind": "no"}
    assert space_of(config, T).names == ("speed",)
    (tmp_path / "written.yaml").write_text(to_yaml(with_absolute_paths(resolve(config))))
    again = load_config(tmp_path / "written.yaml")
    assert again.model == resolve(config).model
    assert again.parameters == resolve(config).parameters
    (tmp_path / "new.yaml").write_text(template(own))
    assert "speed:" in template(own)
    assert "# Å/s" in template(own)
    assert "# Exponential decay.\n" in template(own)
    assert "# one of no, '1e3'\n" in template(own)
    new = load_config(tmp_path / "new.yaml")
    assert resolve(new).model == resolve(load_config({"analysis_mode": own})).model
    assert "did you mean parameters.speed? (decay has speed, contrast, offset)" in problems(
        {"analysis_mode": own, "parameters": {"sped": {"fixed": 1}}}
    )
    for options in ({"power": "1"}, {"sides": ["a"]}, {"sides": 3}, {"kind": "yes"}):
        assert f"model.{next(iter(options))}" in problems({"analysis_mode": own, "model": options})


def test_what_is_read_imports_nothing(own):
    given = {"analysis_mode": own, "model": {"anything": 1}, "parameters": {"any": {"fixed": 1.0}}, "seed": 3}
    config = load_config(given, importing=False)
    assert "own_decay" not in sys.modules
    assert config.analysis_mode == own
    assert {key: to_mapping(config)[key] for key in ("model", "seed")} == {"model": {"anything": 1}, "seed": 3}
    assert resolve(config) == config == load_config(config, ["seed=3"], importing=False)
    assert with_absolute_paths(config).analysis_mode == own
    assert "own_decay" not in sys.modules
    for ask in (model_of, lambda config: space_of(config, T)):
        with pytest.raises(InputError, match="import own_decay"):
            ask(config)
    assert "own_decay" not in sys.modules
    assert load_config({"analysis_mode": "unheard_of"}, importing=False).analysis_mode == "unheard_of"
    assert "sed: unknown key" in problems({**given, "sed": 1}, importing=False)
    assert "own_decay" not in sys.modules


def test_what_is_read_knows_a_model_that_is_imported(own):
    import_module("own_decay")
    given = {"analysis_mode": own, "parameters": {"speed": {"fixed": 1.0}}}
    assert model_of(load_config(given, importing=False)).name == "decay"
    assert "model.anything: unknown key" in problems({**given, "model": {"anything": 1}}, importing=False)
