"""Everything that is wrong with a configuration, in the words of the person who wrote it."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError

from homodyne.arguments import shown
from homodyne.config.schema import AnyPrior, Config, ModelConfig, ParametersConfig, Section, keys_of
from homodyne.errors import InputError
from homodyne.physics.model import MODELS, CorrelationModel, find_model

MOST_ELSEWHERE = 2  # sections that may know a key of one name for it to be suggested


FOREIGN = {
    "advanced": "every number is float64 here, and there is nothing else to choose: remove it",
    "pbs": "what jobs are given stands in optimization.cmc.backend.jobs (account, queue, walltime, cpus, memory_gb, "
    "select), and optimization.cmc.backend.name is pbs",
    "slurm": "what jobs are given stands in optimization.cmc.backend.jobs (account, queue, walltime, cpus, memory_gb), "
    "and optimization.cmc.backend.name is slurm",
}
"""Sections of the developer guide that are none here, and what to write instead."""


def problems_of(error: ValidationError, model: CorrelationModel | None = None) -> list[str]:
    """Tell every problem of a configuration: dotted path, value, what was expected.

    Parameters
    ----------
    error
        What validation of `Config` raised.
    model
        its model, None when that is not known.
    """
    return [_describe(problem, model) for problem in error.errors(include_url=False)]


def known_keys(model: CorrelationModel | None = None, section: type[Section] = Config, path: str = "") -> Iterator[str]:
    """Dotted paths of every key of the configuration, for a model; without the fields of priors."""
    for key in keys_of(section, model):
        yield f"{path}{key.name}"
        if key.name != "prior" and key.section is not None:
            yield from known_keys(model, key.section, f"{path}{key.name}.")


def _describe(problem: Mapping[str, Any], model: CorrelationModel | None) -> str:
    path, siblings, meaning = _place(problem["loc"], model)
    value = f"{path}: {shown(problem['input'])} given" if path else "the configuration"
    match problem["type"]:
        case "extra_forbidden":
            return _unknown(path, siblings, model)
        case "missing":
            return f"{path}: missing"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{value}, expected keys and values"
        case "union_tag_invalid":
            return f"{value}, expected type {problem['ctx']['expected_tags']}"
        case "union_tag_not_found":
            return f"{value}, expected a key 'type' that names the distribution"
    message = str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "expected")
    if isinstance(problem.get("ctx", {}).get("error"), InputError):  # it names the value
        return f"{path}: {message}"
    if problem["type"] in ("float_type", "int_type") and isinstance(problem["input"], str):
        message = f"{message} without a unit: {meaning}"
    return f"{value}, {message}" if path else message


def _unknown(path: str, siblings: Sequence[str], model: CorrelationModel | None) -> str:
    """Say that a key is unknown, and which one was probably meant, or else which are known."""
    parent, _, name = path.rpartition(".")
    foreign = next((FOREIGN[part] for part in path.split(".") if part in FOREIGN), "")
    if foreign and parent not in _OF_MODEL:
        return f"{path}: unknown key; {foreign}"
    if model is None or parent not in _OF_MODEL:
        return f"{path}: unknown key; {_nearest(path, siblings, model) or 'known here: ' + ', '.join(siblings)}"
    has = f"{model.name} has {', '.join(siblings) or 'none'}"
    noun, section = _OF_MODEL[parent]
    others = [other for other in MODELS if name in (key.name for key in keys_of(section, find_model(other)))]
    if others:
        modes = " or ".join(others)
        return f"{path}: no such {noun} in {model.name} mode; remove it or set analysis_mode: {modes} ({has})"
    return f"{path}: unknown key; {' '.join(filter(None, [_nearest(path, siblings, model), f'({has})']))}"


def _nearest(path: str, siblings: Sequence[str], model: CorrelationModel | None) -> str:
    """Ask for the known key that an unknown one most likely means; empty when there is none."""
    parent, _, leaf = path.rpartition(".")
    near = [f"{parent}.{name}".lstrip(".") for name in get_close_matches(leaf, siblings, 1, 0.5)]
    leaves = [(key, key.rpartition(".")[2]) for key in known_keys(model)]
    alike = get_close_matches(leaf, [name for _, name in leaves], 1, 0.75)
    elsewhere = [key for key, name in leaves if name in alike]
    found = near or (elsewhere if len(elsewhere) <= MOST_ELSEWHERE else [])
    return f"did you mean {' or '.join(found)}?" if found else ""


def _place(location: Sequence[str | int], model: CorrelationModel | None) -> tuple[str, list[str], str]:
    """Dotted path of a problem, the names known in its section, and what the key means.

    Inside a prior, pydantic puts the kind of the prior into the location; it is no key and is left out.
    """
    section: type[Section] | None = Config
    names: list[str] = []
    siblings: list[str] = []
    meaning = ""
    for part in location:
        if part in _PRIORS and names[-1] == "prior":
            section = _PRIORS[str(part)]
            continue
        keys = {key.name: key for key in keys_of(section, model)} if section else {}
        known = keys.get(str(part))
        siblings, section, meaning = list(keys), known and known.section, known.description if known else ""
        names.append(str(part))
    return ".".join(names), siblings, meaning


_PRIORS = {get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(AnyPrior)}
_OF_MODEL: dict[str, tuple[str, type[Section]]] = {
    "parameters": ("parameter", ParametersConfig),
    "model": ("option", ModelConfig),
}
"""Sections with the keys of the model: what such a key is, and the section."""
