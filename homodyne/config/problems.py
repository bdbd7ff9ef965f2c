"""Everything that is wrong with a configuration, in the words of the person who wrote it."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from homodyne.config.schema import AnyPrior, Config, Section

MOST_ELSEWHERE = 2  # sections that may know a key of one name for it to be suggested


def describe_problems(error: ValidationError, source: str) -> str:
    """Tell every problem of a configuration, one per line: dotted path, value, what was expected.

    Parameters
    ----------
    error
        What validation of `Config` raised.
    source
        What to call the configuration.
    """
    lines = [_describe(problem) for problem in error.errors(include_url=False)]
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return "\n  ".join([f"{count} in {source}:", *lines])


def known_keys(section: type[BaseModel] = Config, path: str = "") -> Iterator[str]:
    """Dotted paths of every key of the configuration, without the fields of priors."""
    for name, field in section.model_fields.items():
        yield f"{path}{name}"
        if name != "prior" and isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from known_keys(field.annotation, f"{path}{name}.")


def _describe(problem: Mapping[str, Any]) -> str:
    path, siblings = _place(problem["loc"])
    value = f"{path}: {_short(problem['input'])} given" if path else "the configuration"
    match problem["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key; {_suggestion(path, siblings)}"
        case "missing":
            return f"{path}: missing"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{value}, expected keys and values"
        case "union_tag_invalid":
            return f"{value}, expected type {problem['ctx']['expected_tags']}"
        case "union_tag_not_found":
            return f"{value}, expected a key 'type' that names the distribution"
    message = str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "expected")
    return f"{value}, {message}" if path else message


def _suggestion(path: str, siblings: Sequence[str]) -> str:
    """Name the known key that an unknown one most likely means, or else every key known in its section."""
    parent, _, leaf = path.rpartition(".")
    near = [f"{parent}.{name}".lstrip(".") for name in get_close_matches(leaf, siblings, 1, 0.5)]
    leaves = [(key, key.rpartition(".")[2]) for key in known_keys()]
    alike = get_close_matches(leaf, [name for _, name in leaves], 1, 0.75)
    elsewhere = [key for key, name in leaves if name in alike]
    if near or 1 <= len(elsewhere) <= MOST_ELSEWHERE:
        return f"did you mean {' or '.join(near or elsewhere)}?"
    return f"known here: {', '.join(siblings)}"


def _place(location: Sequence[str | int]) -> tuple[str, list[str]]:
    """Dotted path of a problem, and the names known in its section.

    Inside a prior, pydantic puts the kind of the prior into the location; it is no key and is left out.
    """
    section: type[BaseModel] | None = Config
    names: list[str] = []
    siblings: list[str] = []
    for part in location:
        if part in _PRIORS and names[-1] == "prior":
            section = _PRIORS[str(part)]
            continue
        siblings = list(section.model_fields) if section else []
        field = section.model_fields.get(str(part)) if section else None
        section = field.annotation if field and isinstance(field.annotation, type) else None
        names.append(str(part))
    return ".".join(names), siblings


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_PRIORS = {get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(AnyPrior)}
