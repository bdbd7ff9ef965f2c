import pytest

from homodyne.config.io import load_config
from homodyne.config.problems import known_keys
from homodyne.errors import ConfigError
from homodyne.physics.model import find_model

WRONG = {
    "analysis_mode": ("laminar", "unknown model 'laminar'; did you mean laminar_flow?"),
    "experimental_data.q": (
        -1,
        "-1 given, expected a positive number in 1/Å, a list of them, a range low:high, or all",
    ),
    "experimental_data.phi": ("a:b", "'a:b' given, expected a range low:high"),
    "experimental_data.frames": (["5", True], "['5', True] given, expected [first, last]"),
    "experimental_data.gap": (True, "True given, expected a valid number"),
    "experimental_data.dt": (float("nan"), "nan given, expected a finite number"),
    "experimental_data.age_origin": (
        "1 h",
        "'1 h' given, expected a valid number without a unit: age of the sample",
    ),
    "parameters.D0.prior.median": (-3, "-3 given, expected greater than 0"),
    "parameters.phi0": ({"bounds": [3, 1]}, "bounds need low < high, got [3.0, 1.0]"),
    "parameters.alpha": ({"fixed": -1, "initial": -1}, "a fixed parameter has no initial"),
    "parameters.beta.prior": (5, "5 given, expected keys and values"),
    "parameters.offset": ([], "[] given, expected keys and values"),
    "optimization.method": ("nutz", "unknown method 'nutz'; did you mean nuts? Known are auto, cmc, laplace, nuts"),
    "optimization.cmc.backend.name": ("cluster", "unknown backend 'cluster'; expected one of auto, "),
    "optimization.cmc.enable": ("maybe", "'maybe' given, expected True, False or 'auto'"),
    "optimization.cmc.sharding.num_shards": (0, "0 given, expected auto or an integer of 1 or more"),
    "optimization.cmc.combination.method": (
        "mean",
        "unknown combination method 'mean'; expected one of average, consensus",
    ),
    "optimization.mcmc.num_chains": (1, "1 given, expected greater than or equal to 2"),
    "optimization.mcmc.num_samples": ("many", "'many' given, expected a valid integer"),
    "output.directory": (7, "7 given, expected a valid string"),
    "seed": (-1, "-1 given, expected greater than or equal to 0"),
}


def nested(path: str, value: object) -> dict[str, object]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value  # type: ignore[return-value]


@pytest.mark.parametrize("path", WRONG)
def test_wrong_value_is_named_with_its_path_and_what_was_expected(path):
    value, message = WRONG[path]
    given = nested(path, value)
    if path == "parameters.D0.prior.median":
        given = {"parameters": {"D0": {"prior": {"type": "lognormal", "median": value, "sigma": 1.0}}}}
    with pytest.raises(ConfigError) as caught:
        load_config(given)
    assert f"{path}: " in str(caught.value)
    assert message in str(caught.value)
    assert str(caught.value).startswith("1 problem in the configuration:")


@pytest.mark.parametrize("frames", ["abc", "1:2:3", "1.5:4", "nan:5", "1:inf", "9:3"])
def test_wrong_frames_are_told_about_frames(frames):
    with pytest.raises(ConfigError, match=r"frames: '.*' given, expected \[first, last\] or first:last"):
        load_config({"experimental_data": {"frames": frames}})


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("optimization.mcmc.num_sample", "did you mean optimization.mcmc.num_samples?"),
        (
            "optimization.num_warmup",
            "did you mean optimization.mcmc.num_warmup or optimization.cmc.per_shard_mcmc.num_warmup?",
        ),
        ("optimization.cmc.num_workers", "did you mean optimization.cmc.backend.num_workers?"),
        ("num_starts", "did you mean optimization.nlsq.num_starts?"),
        ("optimisation", "did you mean optimization?"),
        ("experimental_data.filepath", "did you mean experimental_data.file_path?"),
        ("parameters.D1", "did you mean parameters.D0?"),
        ("parameters.contrast.fixed", "known here: prior"),
        ("certificate.zzz", "known here: num_points"),
    ],
)
def test_unknown_key_names_the_nearest(path, suggestion):
    given = nested(path, 1)
    with pytest.raises(ConfigError) as caught:
        load_config(given)
    assert f"{path}: unknown key; {suggestion}" in str(caught.value)


def test_fields_of_a_prior_are_known_by_its_kind():
    prior = {"type": "lognormal", "median": 1.0, "sigm": 2.0}
    with pytest.raises(ConfigError) as caught:
        load_config({"parameters": {"D0": {"prior": prior}}})
    assert "parameters.D0.prior.sigma: missing" in str(caught.value)
    assert "parameters.D0.prior.sigm: unknown key; did you mean parameters.D0.prior.sigma?" in str(caught.value)


@pytest.mark.parametrize(
    ("prior", "message"),
    [({"type": "cauchy"}, "expected type 'normal', 'lognormal'"), ({"mean": 0.0}, "expected a key 'type'")],
)
def test_unknown_kind_of_prior(prior, message):
    with pytest.raises(ConfigError, match=message):
        load_config({"parameters": {"D0": {"prior": prior}}})


def test_all_problems_at_once():
    given = {"sed": 1, "optimization": {"mcmc": {"num_chains": 0}}, "experimental_data": {"q": "x"}}
    with pytest.raises(ConfigError) as caught:
        load_config(given)
    assert str(caught.value).count("\n") == 3
    assert str(caught.value).startswith("3 problems")


def test_parameters_of_shear_have_no_place_in_static_mode():
    with pytest.raises(ConfigError, match="parameters.beta: no such parameter in static mode"):
        load_config({"analysis_mode": "static", "parameters": {"beta": {"fixed": 0.0}}})


def test_known_keys_are_dotted_paths():
    keys = set(known_keys(find_model("static")))
    assert {"seed", "optimization.mcmc.num_chains", "parameters.D0.prior"} <= keys
