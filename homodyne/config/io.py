"""Reading, overriding and writing configurations.

A model of one's own is imported by one function, `load_config`, and only where a person has named it: in a file of his,
on the command line or in a call. What is read from a result or a store is loaded with ``importing=False``: the name of
a model that is not imported stays a word there, and `homodyne.config.physics.model_of` says what is missing.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path

from pydantic import ValidationError

from homodyne.arguments import Faults, Json, as_path, shown
from homodyne.config import yaml
from homodyne.config.problems import problems_of
from homodyne.config.schema import Config, ModelConfig, ParameterConfig, ParametersConfig, known_model
from homodyne.errors import ConfigError, InputError
from homodyne.physics.model import CorrelationModel, find_model_class

SPELLINGS = {"shear_convention": "model.shear_convention", "cmc": "optimization.cmc", "mcmc": "optimization.mcmc"}
"""Other places at which a key or section is read, and where it stands in a configuration that is written."""

PATHS = (
    ("experimental_data", "file_path"),
    ("output", "directory"),
    ("reduction", "store"),
    ("optimization", "cmc", "backend", "checkpoint_dir"),
    ("optimization", "cmc", "backend", "jobs", "log_directory"),
)
"""Keys whose values are paths."""


def load_config(
    source: Config | Mapping[str, object] | str | Path | None = None,
    overrides: Iterable[str | tuple[str, object]] = (),
    *,
    importing: bool = True,
    spellings: Mapping[str, str] | None = None,
    reading: bool = False,
) -> Config:
    """Read and check a configuration.

    What stands at two places (`SPELLINGS`, and other names of parameters) is merged key by key.

    Parameters
    ----------
    source
        A configuration, a mapping, the path of a YAML file, or None for the defaults. Relative paths inside a
        file start at the folder of that file.
    overrides
        Changes, applied in order: texts such as ``"optimization.mcmc.num_samples=500"``, whose value is
        read as YAML, or pairs of dotted key and value.
    importing
        Whether the model ``module:Class`` of `analysis_mode` is imported. False for what comes from a result or a
        store, whoever made that: a model that is not registered or imported already is kept as a word, and its options
        and the names of its parameters are not checked.
    spellings
        Further ones, which come before `SPELLINGS`.
    reading
        Whether the data file must be there.

    Raises
    ------
    ConfigError
        Naming every problem at once: path of the key, value given, what was expected; two values of one key, too.
    """
    with Faults() as faults:
        faults.kind("the configuration", source, Config, Mapping, str, Path)
        if isinstance(source, str | Path):
            faults.of(as_path, "the configuration", source)
        changes = faults.of(_changes, overrides)
    name = str(source) if isinstance(source, (str, Path)) else "the configuration"
    if isinstance(source, Config) and not changes:
        return source
    data = _raw(source)
    mode = dict(changes).get("analysis_mode", data.get("analysis_mode", Config().analysis_mode))
    model = _model_of_name(mode, data.get("model"), importing)
    others = SPELLINGS | dict(spellings or {}) | _other_names(model)
    contradictions = [text for old, new in others.items() for text in _move(data, old.split("."), new.split("."))]
    if isinstance(source, (str, Path)):
        for keys in PATHS:
            _anchor(data, keys, Path(source).parent)
    for path, value in changes:
        _set(data, usual_path(path, others).split("."), _plain(value))
    for keys in PATHS:
        _anchor(data, keys, Path())
    try:
        config = Config.model_validate(data, context={"importing": importing})
    except ValidationError as error:
        problems = [*problems_of(error, known_model(mode)), *contradictions]
    else:
        problems = contradictions
    problems += _unreadable(data) if reading else []
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{count} in {name}:", problems)
    return config


def to_mapping(config: Config) -> dict[str, Json]:
    """Write a configuration as nested dictionaries of plain values; keys left at "not given" are left out."""
    data: dict[str, Json] = config.model_dump(mode="json", exclude_none=True)
    scaling = {name: data["parameters"].pop(name) for name in ParametersConfig.model_fields}
    data["parameters"] = {name: value for name, value in data["parameters"].items() if value} | scaling
    return data


def resolve(config: Config) -> Config:
    """Fill in every option of the model, and the default prior of each of its parameters that is fitted.

    Imports nothing: the configuration of a model that is not imported, which comes from a result or a store and was
    resolved when it was written, stays as it is.
    """
    model = known_model(config.analysis_mode, config.model.given())
    if model is None:
        return config
    given = config.parameters.given()
    complete: dict[str, Json] = {}
    for one in model.parameters:
        own = given.get(one.name, ParameterConfig()).model_dump(exclude_none=True)
        default: dict[str, object] = {"prior": {"type": one.prior[0], **one.prior[1]}}
        if "fixed" in own:
            default = {}
        elif one.fixed is not None and not own:
            default = {"fixed": one.fixed}
        complete[one.name] = ParameterConfig.model_validate(default | own)
    scaling: dict[str, Json] = {name: getattr(config.parameters, name) for name in ParametersConfig.model_fields}
    parameters = ParametersConfig(**scaling, **complete)
    return config.model_copy(update={"parameters": parameters, "model": ModelConfig(**model.options)})


def to_yaml(config: Config) -> str:
    """Write a configuration as YAML that `load_config` reads back as the same."""
    return yaml.dump(to_mapping(config))


def with_absolute_paths(config: Config) -> Config:
    """Make relative paths start at the working directory, so that they mean the same in a file of any folder."""
    data = to_mapping(config)
    for keys in PATHS:
        _anchor(data, keys, Path.cwd())
    return load_config(data, importing=False)


def _raw(source: Config | Mapping[str, object] | str | Path | None) -> dict[str, object]:
    """Unchecked nested dictionaries, safe to change."""
    if source is None:
        return {}
    if isinstance(source, Config):
        return to_mapping(source)
    if isinstance(source, Mapping):
        return {key: _plain(value) for key, value in source.items()}
    path = Path(source)
    data = yaml.read(path)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values (YAML), found {type(data).__name__}")
    return data


def _unreadable(data: Mapping[str, object]) -> list[str]:
    """What is wrong with the data file that unchecked values name."""
    section = data.get("experimental_data")
    name = section.get("file_path") if isinstance(section, dict) else None
    if not isinstance(name, str):  # not given, or reported already
        return []
    found = Path(name)
    if not found.exists():
        return [f"experimental_data.file_path: {name!r} given, there is no such file"]
    if not found.is_file():
        return [f"experimental_data.file_path: {name!r} given, which is no file"]
    return [] if os.access(found, os.R_OK) else [f"experimental_data.file_path: {name!r} given, it may not be read"]


def _model_of_name(name: Json, options: object, importing: bool) -> CorrelationModel | None:
    """Model whose other names of parameters are read; None where validation is going to say what is wrong."""
    try:
        find_model_class(name, importing=importing)
    except InputError:
        return None
    return known_model(name, options if isinstance(options, Mapping) else None)


def _other_names(model: CorrelationModel | None) -> dict[str, str]:
    """Spellings of the parameters of a model."""
    parameters = () if model is None else model.parameters
    return {f"parameters.{alias}": f"parameters.{one.name}" for one in parameters for alias in one.aliases}


def usual_path(path: str, spellings: Mapping[str, str] = SPELLINGS) -> str:
    """Dotted path of a key at its usual place, where it is given by another spelling."""
    for old, new in spellings.items():
        if path == old or path.startswith(f"{old}."):
            return new + path.removeprefix(old)
    return path


def _move(data: dict[str, Json], old: list[str], new: list[str]) -> list[str]:
    """Merge what stands at one place into another, key by key; a sentence for each key with two values."""
    source, target = _section(data, old[:-1]), _section(data, new[:-1], make=old[0] in data)
    if source is None or target is None or old[-1] not in source:
        return []
    return _merge(source.pop(old[-1]), target, new[-1], ".".join(old), ".".join(new))


def _section(data: Json, keys: list[str], *, make: bool = False) -> dict[str, Json] | None:
    """A nested section, which may be made; None where there is something else, or nothing."""
    for key in keys:
        if make:
            data.setdefault(key, {})
        data = data.get(key)
        if not isinstance(data, dict):
            return None
    return data if isinstance(data, dict) else None


def _merge(value: object, target: dict[str, object], key: str, old: str, new: str) -> list[str]:
    if key not in target:
        target[key] = value
        return []
    there = target[key]
    if isinstance(value, dict) and isinstance(there, dict):
        return [text for name in value for text in _merge(value[name], there, name, f"{old}.{name}", f"{new}.{name}")]
    return [] if value == there else [f"{old} is {value!r} and {new} is {there!r}: keep the second alone"]


def _anchor(data: object, keys: Sequence[str], folder: Path) -> None:
    """Make a relative path in a configuration start at a folder, and one with a tilde at a home."""
    for key in keys[:-1]:
        data = data.get(key) if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(data.get(keys[-1]), str):
        data[keys[-1]] = str(folder / os.path.expanduser(data[keys[-1]]))


def _plain(value: object) -> object:
    """Copy of nested mappings as dictionaries, with NumPy scalars as Python numbers."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Real):
        whole: object = value
        value = getattr(whole, "tolist", lambda: whole)()  # of NumPy, whose time differences are integers
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _changes(overrides: Json) -> list[tuple[str, Json]]:
    """Changes as pairs of dotted key and value."""
    try:
        given = list(overrides)
    except TypeError:
        given = [overrides]
    with Faults() as faults:
        for one in given:
            if not (isinstance(one, str) or (isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str))):
                faults.add(f"overrides holds {shown(one)}; expected 'key=value', or (key, value)")
    return [_parse_override(one) if isinstance(one, str) else one for one in given]


def _parse_override(text: str) -> tuple[str, object]:
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise ConfigError(f"{text!r}: expected key=value, such as optimization.mcmc.num_samples=500")
    return path, yaml.parse(value, text)


def _set(data: dict[str, Json], keys: list[str], value: object) -> None:
    """Set a nested value, making sections on the way; a value in the way is replaced by a section."""
    for key in keys[:-1]:
        if not isinstance(data.get(key), dict):
            data[key] = {}
        data = data[key]
    data[keys[-1]] = value
