"""Reading, overriding and writing configurations."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from homodyne.config import yaml
from homodyne.config.problems import describe_problems
from homodyne.config.schema import Config, ParametersConfig
from homodyne.core.parameters import DEFAULT_PRIORS, MODES
from homodyne.errors import ConfigError

TEMPLATES = ("static", "laminar_flow")
PATHS = (
    ("experimental_data", "file_path"),
    ("output", "directory"),
    ("optimization", "cmc", "backend", "checkpoint_dir"),
    ("optimization", "cmc", "backend", "jobs", "log_directory"),
)
"""Keys whose values are paths."""


def load_config(
    source: Config | Mapping[str, Any] | str | Path | None = None, overrides: Iterable[str | tuple[str, Any]] = ()
) -> Config:
    """Read and check a configuration.

    Parameters
    ----------
    source
        A configuration, a mapping, the path of a YAML file, or None for the defaults. Relative paths inside a
        file start at the folder of that file.
    overrides
        Changes, applied in order: texts such as ``"optimization.mcmc.num_samples=500"``, whose value is
        read as YAML, or pairs of dotted key and value.

    Raises
    ------
    ConfigError
        Naming every problem at once: path of the key, value given, what was expected.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the configuration"
    changes = [_parse_override(change) if isinstance(change, str) else change for change in overrides]
    if isinstance(source, Config) and not changes:
        return source
    data = _raw(source)
    for path, value in changes:
        _set(data, path.split("."), _plain(value))
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe_problems(error, name)) from None


def to_mapping(config: Config) -> dict[str, Any]:
    """Write a configuration as nested dictionaries of plain values; keys left at "not given" are left out."""
    data: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    data["parameters"] = {name: value for name, value in data["parameters"].items() if value}
    return data


def resolve(config: Config) -> Config:
    """Fill in the default priors of every parameter of the analysis mode that is fitted."""
    parameters: dict[str, Any] = to_mapping(config)["parameters"]
    for name in MODES[config.analysis_mode]:
        kind, arguments = DEFAULT_PRIORS[name]
        if "fixed" not in parameters.get(name, {}):
            parameters[name] = {"prior": {"type": kind, **arguments}, **parameters.get(name, {})}
    return config.model_copy(update={"parameters": ParametersConfig.model_validate(parameters)})


def to_yaml(config: Config) -> str:
    """Write a configuration as YAML that `load_config` reads back as the same."""
    return yaml.dump(to_mapping(config))


def with_absolute_paths(config: Config) -> Config:
    """Make relative paths start at the working directory, so that they mean the same in a file of any folder."""
    data = to_mapping(config)
    for keys in PATHS:
        _anchor(data, keys, Path.cwd())
    return Config.model_validate(data)


def template(mode: str) -> str:
    """Commented configuration file to start from, for the analysis mode "static" or "laminar_flow"."""
    if mode not in TEMPLATES:
        raise ConfigError(f"no template for analysis mode {mode!r}; there are {', '.join(TEMPLATES)}")
    return files("homodyne.config").joinpath(f"templates/{mode}.yaml").read_text(encoding="utf-8")


def _raw(source: Config | Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
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
    for keys in PATHS:
        _anchor(data, keys, path.parent)
    return data


def _anchor(data: Any, keys: Sequence[str], folder: Path) -> None:
    """Make a relative path in a configuration start at a folder."""
    for key in keys[:-1]:
        data = data.get(key) if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(data.get(keys[-1]), str):
        data[keys[-1]] = str(folder / data[keys[-1]])


def _plain(value: Any) -> Any:
    """Copy of nested mappings as dictionaries, with NumPy scalars as Python numbers."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _parse_override(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise ConfigError(f"{text!r}: expected key=value, such as optimization.mcmc.num_samples=500")
    return path, yaml.parse(value, text)


def _set(data: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set a nested value, making sections on the way; a value in the way is replaced by a section."""
    for key in keys[:-1]:
        if not isinstance(data.get(key), dict):
            data[key] = {}
        data = data[key]
    data[keys[-1]] = value
