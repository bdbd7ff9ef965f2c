"""What a key of the configuration means, in words: `explanation`."""

from typing import Any

from homodyne.config.io import load_config, resolve, usual_path
from homodyne.config.physics import model_of
from homodyne.config.problems import known_keys
from homodyne.config.schema import Config, Key, Section, keys_of
from homodyne.config.template import inline
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
    path = usual_path(path)
    section: type[Section] = Config
    value: Any = config
    key: Key | None = None
    for name in path.split("."):
        key = next((one for one in keys_of(section, model) if one.name == name), None)
        if key is None:
            raise ConfigError(f"{path}: no such key; {suggestion(path, known_keys(model))}")
        value = dict(value)[name]
        section = key.section or Section
    assert key is not None
    if key.section is None:
        return "\n".join(_lines(path, key, value))
    below = [f"  {one.name:24}{one.description}" for one in keys_of(key.section, model)]
    return "\n".join([f"{path}: {key.description}", "", *below])


def _lines(path: str, key: Key, value: object) -> list[str]:
    default = "none" if value is None else inline(value)
    choices = [f"one of: {', '.join(map(str, key.choices))}"] if key.choices else []
    return [f"{path}: {key.description}", *choices, f"default: {default}", f"write:   {path}={default}"]
