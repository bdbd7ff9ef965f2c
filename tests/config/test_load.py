from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from homodyne.config.io import load_config, resolve, to_mapping, to_yaml
from homodyne.config.problems import known_keys
from homodyne.config.schema import (
    AnyPrior,
    CombinationConfig,
    Config,
    InitializationConfig,
    ShardingConfig,
    keys_of,
)
from homodyne.config.template import template
from homodyne.errors import ConfigError, InputError
from homodyne.likelihood.direct import LIMIT
from homodyne.optimization.cmc import backends
from homodyne.optimization.cmc.backends import BACKENDS, find_backend
from homodyne.optimization.cmc.consensus import PER_SHARD
from homodyne.optimization.cmc.coordinator import INITIALIZATIONS
from homodyne.optimization.nuts import NutsSettings
from homodyne.optimization.pilot import PilotSettings
from homodyne.physics.model import MODELS, find_model
from homodyne.physics.priors import make_prior
from homodyne.registries import COMBINERS, STRATEGIES

SHIPPED = list(MODELS)


def problems(source=None, overrides=()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return str(caught.value)


@pytest.fixture
def written(tmp_path):
    def write(text: str, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_nothing_given_is_the_defaults():
    assert load_config() == load_config({}) == Config()


def test_yaml_mapping_and_model_are_the_same(written):
    path = written("optimization: {mcmc: {num_samples: 77}}\nseed: 5\nanalysis_mode: static\n")
    from_file = load_config(path)
    from_mapping = load_config({"optimization": {"mcmc": {"num_samples": 77}}, "seed": 5, "analysis_mode": "static"})
    assert from_file == from_mapping == load_config(from_file)
    assert from_file.optimization.mcmc.num_samples == 77


def test_overrides_win_in_order_and_leave_the_rest(written):
    path = written("optimization: {mcmc: {num_samples: 77, num_warmup: 3}}\n")
    config = load_config(path, ["optimization.mcmc.num_samples=1", ("optimization.mcmc.num_samples", 2)])
    assert (config.optimization.mcmc.num_samples, config.optimization.mcmc.num_warmup) == (2, 3)
    assert load_config(config, ["seed=3"]).optimization.mcmc == config.optimization.mcmc


def test_a_given_mapping_is_not_changed():
    given = {"optimization": {"mcmc": {"num_samples": 77}}}
    load_config(given, ["optimization.mcmc.num_samples=1"])
    assert given == {"optimization": {"mcmc": {"num_samples": 77}}}


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_config().seed = 3  # type: ignore[misc]


def test_paths_in_a_file_start_at_its_folder(written, tmp_path):
    path = written(
        "experimental_data: {file_path: run.h5}\noutput: {directory: out}\n"
        "optimization: {cmc: {backend: {checkpoint_dir: shards}}}\n"
    )
    config = load_config(path)
    assert config.experimental_data.file_path == str(tmp_path / "run.h5")
    assert config.output.directory == str(tmp_path / "out")
    assert config.optimization.cmc.backend.checkpoint_dir == str(tmp_path / "shards")
    assert load_config(path, ["experimental_data.file_path=run.h5"]).experimental_data.file_path == "run.h5"
    absolute = written("experimental_data: {file_path: /data/run.h5}")
    assert load_config(absolute).experimental_data.file_path == "/data/run.h5"


def test_numpy_numbers_are_numbers():
    config = load_config({"seed": np.int64(3), "experimental_data": {"q": np.float32(0.5)}})
    assert (config.seed, config.experimental_data.q) == (3, 0.5)


@pytest.mark.parametrize(
    ("given", "stored", "selection"),
    [
        ("-30:30", "-30.0:30.0", (-30.0, 30.0)),
        ((0.1, 0.3), "0.1:0.3", (0.1, 0.3)),
        ([0, 45], (0.0, 45.0), [0.0, 45.0]),
        ("0, 45", (0.0, 45.0), [0.0, 45.0]),
        (45, (45.0,), [45.0]),
        (None, None, None),
    ],
)
def test_angles(given, stored, selection):
    data = load_config({"experimental_data": {"phi": given}}).experimental_data
    assert (data.phi, data.phi_selection) == (stored, selection)


@pytest.mark.parametrize(
    ("given", "stored", "selection"),
    [
        (0.004, 0.004, 0.004),
        ("0.004", 0.004, 0.004),
        ([0.004], 0.004, 0.004),
        ([0.004, 0.006], (0.004, 0.006), [0.004, 0.006]),
        ("0.004,0.006, 0.008", (0.004, 0.006, 0.008), [0.004, 0.006, 0.008]),
        ((0.004, 0.008), "0.004:0.008", "0.004:0.008"),
        ("0:0.008", "0.0:0.008", "0.0:0.008"),
        ("all", "all", "all"),
        (None, None, None),
    ],
)
def test_wavevectors(given, stored, selection, written):
    config = load_config({"experimental_data": {"q": given}})
    assert (config.experimental_data.q, config.experimental_data.q_selection) == (stored, selection)
    assert load_config(written(to_yaml(config))).experimental_data.q == stored
    assert load_config(to_mapping(config)) == config
    if isinstance(given, str):
        assert load_config(None, [f"experimental_data.q={given}"]).experimental_data.q == stored


@pytest.mark.parametrize(
    "given", [0, "0.004,", "0.004,-1", [], ["a"], "a:b", "0.1:inf", "-1:2", [0.0, 1.0], True, "every"]
)
def test_wrong_wavevectors(given):
    assert "experimental_data.q: " in problems({"experimental_data": {"q": given}})


@pytest.mark.parametrize("given", ["1:1000", [1, 1000], (1, 1000)])
def test_frames(given):
    assert load_config({"experimental_data": {"frames": given}}).experimental_data.frames == (1, 1000)


@pytest.mark.parametrize("mode", ["static", "static_isotropic", "static_anisotropic"])
def test_spellings_of_static(mode):
    assert load_config({"analysis_mode": mode}).analysis_mode == "static"


def test_older_names_of_parameters():
    config = load_config({"parameters": {"gamma_dot_t0": {"initial": 1e-3}, "gamma_dot_t_offset": {"fixed": 0.0}}})
    assert config.parameters.gamma_dot_0.initial == 1e-3
    assert config.parameters.gamma_dot_offset.fixed == 0.0
    assert set(config.parameters.given()) == {"gamma_dot_0", "gamma_dot_offset"}
    twice = {"parameters": {"gamma_dot_0": {"fixed": 1.0}, "gamma_dot_t0": {"fixed": 2.0}}}
    assert "parameters.gamma_dot_t0.fixed is 2.0 and parameters.gamma_dot_0.fixed is 1.0: keep" in problems(twice)


EVERYTHING = {
    "analysis_mode": "laminar_flow",
    "experimental_data": {
        "file_path": "run 1e4.h5",
        "q": 0.0054,
        "phi": [0.0, 90.0],
        "frames": [1, 1000],
        "dt": 0.1,
        "gap": 2e6,
        "format": "aps_u",
        "age_origin": 3.0,
    },
    "parameters": {
        "D0": {
            "prior": {"type": "lognormal", "median": 1e4, "sigma": 4.0},
            "initial": 7e4,
            "bounds": [0.0, 1e9],
        },
        "alpha": {"prior": {"type": "normal", "mean": -1.0, "sd": 1.0}},
        "D_offset": {"prior": {"type": "uniform", "low": -1e3, "high": 1e4}},
        "gamma_dot_0": {"prior": {"type": "loguniform", "low": 1e-6, "high": 1.0}},
        "beta": {"prior": {"type": "truncated_normal", "mean": 0.0, "sd": 1.0, "low": -2.0, "high": 2.0}},
        "gamma_dot_offset": {"fixed": 0.0},
        "phi0": {"prior": {"type": "half_normal", "sd": 20.0}},
        "contrast": {"prior": {"type": "normal", "mean": 0.3, "sd": 0.2}},
        "offset": {"prior": {"type": "normal", "mean": 1.0, "sd": 0.1}},
    },
    "model": {"shear_convention": "legacy"},
    "noise": "sampled",
    "uncertainty": "independent",
    "seed": 9,
}


@pytest.mark.parametrize("given", [{}, EVERYTHING, {"experimental_data": {"phi": (1.0, 2.5), "file_path": "no"}}])
def test_written_configurations_read_back(given, written):
    config = load_config(given)
    assert load_config(to_mapping(config)) == config
    again = load_config(to_mapping(config) | {"experimental_data": {}, "output": {}})
    assert load_config(written(to_yaml(again))).parameters == config.parameters


def test_everything_given_is_kept():
    written = to_mapping(load_config(EVERYTHING))
    assert {key: written[key] for key in EVERYTHING} == EVERYTHING


@pytest.mark.parametrize("mode", SHIPPED)
def test_template_equals_the_defaults(mode, written):
    path = written(template(mode))
    config, defaults = load_config(path), load_config({"analysis_mode": mode})
    assert resolve(config).model_copy(update={"output": defaults.output}) == resolve(defaults)
    assert Path(config.output.directory).name == defaults.output.directory
    live = [line.strip().removeprefix("# ") for line in path.read_text().splitlines()]
    keys = {key for key in known_keys(find_model(mode)) if not key.startswith("parameters.") or key.count(".") < 2}
    assert {key for key in keys if not any(line.startswith(f"{key.rpartition('.')[2]}:") for line in live)} == set()


def test_resolving_adds_priors_and_changes_nothing_else():
    given = load_config({"analysis_mode": "static", "parameters": {"alpha": {"fixed": -1.0}, "D0": {"initial": 5.0}}})
    resolved = resolve(given)
    assert resolve(resolved) == resolved
    assert resolved.parameters.alpha == given.parameters.alpha
    assert resolved.parameters.D0.initial == 5.0
    assert resolved.parameters.D0.prior is not None
    assert resolved.parameters.D0.prior.type == find_model("static").parameters[0].prior[0]
    assert list(resolved.parameters.given()) == ["D0", "alpha", "D_offset"]
    assert resolved.model_copy(update={"parameters": given.parameters}) == given


@pytest.mark.parametrize("kind", AnyPrior.__args__)
def test_every_kind_of_prior_can_be_built(kind):
    values = {"mean": 1.0, "sd": 2.0, "median": 3.0, "sigma": 0.5, "low": 0.5, "high": 0.9}
    name, *arguments = kind.model_fields
    word = kind.model_fields[name].annotation.__args__[0]
    prior = make_prior(word, {argument: values[argument] for argument in arguments})
    assert prior.low < prior.quantile(0.5) < prior.high


def test_defaults_of_the_methods_are_written_once():
    reduction, accuracy = load_config().reduction, PilotSettings().accuracy
    assert (reduction.order, reduction.tolerance, reduction.max_error) == (*accuracy, LIMIT)
    given = load_config().optimization
    methods = ((given.nlsq, PilotSettings()), (given.mcmc, NutsSettings()), (given.cmc.per_shard_mcmc, PER_SHARD))
    for section, settings in methods:
        shared = set(type(section).model_fields) & {field.name for field in fields(settings)}
        assert len(shared) >= 3
        assert {name: getattr(section, name) for name in shared} == {name: getattr(settings, name) for name in shared}


def test_names_of_the_consensus_engine_are_those_of_its_registries():
    assert set(get_args(InitializationConfig.model_fields["method"].annotation)) == set(INITIALIZATIONS)
    choices = {key.name: key.choices for key in (*keys_of(CombinationConfig), *keys_of(ShardingConfig))}
    assert (choices["method"], choices["strategy"]) == (tuple(COMBINERS), tuple(STRATEGIES))


def test_a_registered_backend_can_be_named(monkeypatch):
    change = "optimization.cmc.backend.name=mine"
    with pytest.raises(ConfigError, match="unknown backend 'mine'; expected one of auto, "):
        load_config(None, [change])
    monkeypatch.setitem(BACKENDS, "mine", BACKENDS["sequential"])
    assert load_config(None, [change]).optimization.cmc.backend.name == "mine"


def test_a_tilde_is_a_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    (tmp_path / "run.yaml").write_text("experimental_data: {file_path: ~/run.h5}\noutput: {directory: out}\n")
    config = load_config(tmp_path / "run.yaml", ["reduction.store=~/kept"])
    assert config.experimental_data.file_path == "/home/somebody/run.h5"
    assert config.reduction.store == "/home/somebody/kept"
    assert config.output.directory == str(tmp_path / "out")
    assert load_config({"output": {"directory": "plain"}}).output.directory == "plain"


OWN_BACKEND = """
from homodyne.optimization.cmc.backends import SequentialBackend

class Backend(SequentialBackend):
    def get_backend_name(self):
        return "own"

nothing = 3
"""
NAME = "optimization.cmc.backend.name"


def test_a_backend_of_ones_own_is_named_by_its_class(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_backend.py").write_text(OWN_BACKEND)
    stored = {"optimization": {"cmc": {"backend": {"name": "own_backend:Backend"}}}}
    assert load_config(stored, importing=False).optimization.cmc.backend.name == "own_backend:Backend"
    with pytest.raises(InputError, match="import own_backend before"):  # a store imports nothing
        find_backend("own_backend:Backend", importing=False)
    for wrong, message in (("own_backend:Absent", "cannot import the backend"), ("own_backend:nothing", "is 3; exp")):
        with pytest.raises(ConfigError, match=f"{NAME}: .*{message}"):
            load_config(None, [f"{NAME}={wrong}"])
    file = tmp_path / "run.yaml"
    file.write_text("cmc: {backend: {name: 'own_backend:Backend'}}\n")
    name = load_config(file).optimization.cmc.backend.name
    assert find_backend(name, importing=False)(None).get_backend_name() == "own"
    monkeypatch.setitem(backends._BACKEND_REGISTRY, "guide", "own_backend.Backend")  # as the guide writes it
    assert find_backend("guide", importing=False)(None).get_backend_name() == "own"
    assert load_config(None, [f"{NAME}=guide"]).optimization.cmc.backend.name == "guide"


def test_a_backend_of_another_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_backend.py").write_text(OWN_BACKEND)
    information = tmp_path / "theirs-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[homodyne.backends]\ntheirs = their_backend:Backend\n")
    assert load_config(None, [f"{NAME}=theirs"]).optimization.cmc.backend.name == "theirs"
    assert find_backend("theirs")(None).get_backend_name() == "own"


def test_both_spellings_of_a_section_count_key_by_key():
    both = {
        "cmc": {"combination": {"method": "average"}, "sharding": {"strategy": "random"}},
        "mcmc": {"num_samples": 70},
        "optimization": {"cmc": {"sharding": {"num_shards": 3}}, "mcmc": {"num_chains": 3}},
        "parameters": {"gamma_dot_t0": {"initial": 0.1}, "gamma_dot_0": {"bounds": [0.0, 1.0]}},
    }
    found = load_config(both, ["cmc.combination.num_draws=200", "parameters.gamma_dot_t0.initial=0.2"])
    cmc, own = found.optimization.cmc, found.parameters.given()["gamma_dot_0"]
    assert (cmc.sharding.num_shards, cmc.sharding.strategy, cmc.combination.method) == (3, "random", "average")
    assert (cmc.combination.num_draws, own.initial, own.bounds) == (200, 0.2, (0.0, 1.0))
    assert (found.optimization.mcmc.num_samples, found.optimization.mcmc.num_chains) == (70, 3)
    one = load_config({"mcmc": {"num_samples": 70}}, spellings={"mcmc": "optimization.cmc.per_shard_mcmc"})
    assert one.optimization.cmc.per_shard_mcmc.num_samples == 70


def test_two_values_of_one_key_are_told_with_every_other_problem():
    given = {
        "cmc": {"sharding": {"num_shards": 2}, "enable": "maybe"}, "sed": 1,
        "optimization": {"cmc": {"sharding": {"num_shards": 3}}},
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_config(given)
    said = str(caught.value)
    assert said.startswith("3 problems")
    assert "cmc.sharding.num_shards is 2 and optimization.cmc.sharding.num_shards is 3" in said
    assert "optimization.cmc.enable: 'maybe' given" in said


def test_relative_paths_of_either_spelling_start_at_the_file(tmp_path):
    (tmp_path / "run.yaml").write_text("cmc: {backend: {checkpoint_dir: kept}}\n")
    assert load_config(tmp_path / "run.yaml").optimization.cmc.backend.checkpoint_dir == str(tmp_path / "kept")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"advanced": {"use_64bit": False}}, "advanced: unknown key; every number is float64"),
        ({"cmc": {"advanced": {}}}, "optimization.cmc.advanced: unknown key; every number is float64"),
        ({"cmc": {"pbs": {"queue": "x"}}}, "optimization.cmc.pbs: unknown key; .*optimization.cmc.backend.jobs"),
        ({"cmc": {"backend": {"slurm": {}}}}, "backend.slurm: unknown key; .*optimization.cmc.backend.jobs"),
    ],
)
def test_sections_of_the_guide_lead_to_what_takes_their_place(given, hint):
    with pytest.raises(ConfigError, match=hint):
        load_config(given)
    with pytest.raises(ConfigError, match="advanced: unknown key; every number is float64"):
        load_config(None, ["advanced.use_64bit=false"])


@pytest.mark.parametrize(
    "key", ["experimental_data.frames=١:٢", "experimental_data.q=٠.٠١", "experimental_data.phi=1_0:20"]
)
def test_numbers_are_written_in_the_digits_of_yaml(key):
    with pytest.raises(ConfigError, match="given, expected"):
        load_config(None, [key])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reduction.tolerance", 0.2),
        ("optimization.nlsq.num_candidates", 10**30),
        ("optimization.laplace.num_draws", 10**30),
        ("optimization.mcmc.num_samples", 10**8),
        ("optimization.mcmc.num_chains", 10**6),
        ("certificate.num_points", 10**8),
    ],
)
def test_settings_that_no_fit_can_follow_are_refused(key, value):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load_config({"analysis_mode": "static"}, [f"{key}={value}"])
