"""What a key of the configuration means, in words: `explanation`."""

from typing import Any

from homodyne.config import yaml
from homodyne.config.io import SPELLINGS, load_config, resolve
from homodyne.config.physics import model_of
from homodyne.config.problems import known_keys
from homodyne.config.schema import Config, Key, Section, keys_of
from homodyne.errors import ConfigError
from homodyne.registries import suggestion


def explanation(path: str, mode: str) -> str:
    """Meaning, choices and default of a key, or of every key of a section.

    Parameters
    ----------
    path
        Key with its sections, ``optimization.method``.
    mode
        Model whose parameters and options are meant, by its name or as ``module:Class``.

    Raises
    ------
    ConfigError
        There is no such key.
    """
    config = resolve(load_config({"analysis_mode": mode}))
    model = model_of(config)
    for old, new in SPELLINGS.items():
        path = f"{new}{path[len(old) :]}" if path == old or path.startswith(f"{old}.") else path
    section: type[Section] = Config
    value: Any = config
    key: Key | None = None
    for name in path.split("."):
        key = next((one for one in keys_of(section, model) if one.name == name), None) if section else None
        if key is None:
            raise ConfigError(f"{path}: no such key; {suggestion(path, known_keys(model))}")
        value = dict(value)[name]
        section = key.section or Section
    assert key is not None
    if key.section is None:
        return "\n".join(_lines(path, key, value))
    below = [(one, dict(value).get(one.name)) for one in keys_of(key.section, model)]
    return "\n".join([f"{path}: {key.description}", "", *(f"  {one.name:24}{one.description}" for one, _ in below)])


def _lines(path: str, key: Key, value: Any) -> list[str]:
    default = "none" if value is None else yaml.dump({"": value}).partition(": ")[2].strip()
    choices = [f"one of: {', '.join(map(str, key.choices))}"] if key.choices else []
    return [f"{path}: {key.description}", *choices, f"default: {default}", f"write:   {path}={default}"]
