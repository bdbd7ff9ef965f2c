"""Commented configuration files to start from, made of the keys of the schema and of a model."""

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

from homodyne.config import yaml
from homodyne.config.io import load_config, resolve
from homodyne.config.physics import model_of
from homodyne.config.schema import Config, Key, ParameterConfig, ScalingConfig, Section, keys_of
from homodyne.physics.model import CorrelationModel

_COLUMN, _WIDTH = 38, 80  # of the comments
_HEAD = """\
# {title}
# A value that stands here is the default, but for those of {chosen}.
# Other lines may be left out; a key in a comment has no value.
# Check with   homodyne config check FILE     run with   homodyne fit FILE
"""


def template(mode: str, changes: Mapping[str, object] | None = None) -> str:
    """Commented configuration file with the defaults of a model, given by its name or as ``module:Class``.

    Parameters
    ----------
    mode
        The model.
    changes
        Values that are not the defaults, by key with its sections.
    """
    chosen = {"analysis_mode": mode, **(changes or {})}
    config = resolve(load_config(overrides=chosen.items()))
    model = model_of(config)
    title = (model.__doc__ or model.name).strip().splitlines()[0]
    values = dict(config)
    blocks = ["\n".join(_lines(key, values[key.name], model)) for key in keys_of(Config)]
    spaced = [block + "\n" * (key.section is not None) for key, block in zip(keys_of(Config), blocks, strict=True)]
    return "\n".join([_HEAD.format(title=title, chosen=", ".join(chosen)), *spaced, ""])


def _lines(key: Key, value: Any, model: CorrelationModel, indent: str = "") -> list[str]:
    """Lines of a key with what it means; what is not given is a comment."""
    if key.section is None:
        return _commented(f"{indent}{'# ' * (value is None)}{key.name}: {'' if value is None else inline(value)}", key)
    values = dict(value)
    if isinstance(value, ParameterConfig | ScalingConfig):
        below = [f"{indent}  {name}: {inline(given)}" for name, given in values.items() if given is not None]
    else:
        parts = [_lines(one, values[one.name], model, f"{indent}  ") for one in keys_of(key.section, model)]
        below = [line for part in parts for line in part]
    idle = all(line.strip().startswith("#") for line in below)
    return [*_commented(f"{indent}{'# ' * idle}{key.name}:", key), *below]


def _commented(text: str, key: Key) -> list[str]:
    """A line with its comment, which may take more lines."""
    meaning, choices = key.description, [inline(choice) for choice in key.choices]
    if not all(choice in meaning for choice in choices):
        meaning = "; ".join(filter(None, [meaning, f"one of {', '.join(choices)}"]))
    first, *more = wrap(meaning, _WIDTH) or [""]
    return [f"{text.rstrip():{_COLUMN}}# {first}" if first else text, *(f"{'':{_COLUMN}}# {line}" for line in more)]


def inline(value: object) -> str:
    """A value as YAML on one line."""
    if isinstance(value, (Section, dict)):
        return "{" + ", ".join(f"{name}: {inline(item)}" for name, item in dict(value).items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(inline, value))}]"
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return yaml.dump({"": value}).partition(": ")[2].strip()
