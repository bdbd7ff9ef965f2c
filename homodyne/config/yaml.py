"""YAML as configuration files need it: plain data only, YAML 1.2 numbers, no duplicate keys, no aliases.

PyYAML follows YAML 1.1, where ``1e4`` is a text, ``no`` is false and ``1:30`` is ninety; here ``1e4`` is a
number and the other two are texts.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from homodyne.errors import ConfigError
from homodyne.reading import reading

MAX_BYTES, MAX_NODES, MAX_DEPTH = 1_000_000, 20_000, 50
"""Largest configuration: bytes; keys and values, each of which takes about a kilobyte; sections within one another."""

_SCALARS = [
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]{1,300}", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's interface

    num_nodes = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it open
        self.num_nodes, self.depth = self.num_nodes + 1, self.depth + 1
        if self.num_nodes > MAX_NODES or self.depth > MAX_DEPTH:
            found = f"more than {MAX_NODES} keys and values" if self.depth <= MAX_DEPTH else "nested too deeply"
            raise yaml.MarkedYAMLError(problem=f"{found}; this is no configuration", problem_mark=event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            problem = "tags (!) and aliases (*) are not accepted here"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str) or key in seen:
                problem = "keys must be plain words" if key is None else f"key {key!r} stands here twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's interface


for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            _tag, re.compile(rf"^(?:{_pattern})$"), [*_first, *([""] if "null" in _tag else [])]
        )
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def parse(text: str, source: str) -> object:
    """Parse one YAML document into dictionaries, lists and scalars.

    Parameters
    ----------
    text
        The document.
    source
        What to call it in messages.

    Raises
    ------
    ConfigError
        When the text is not YAML, is too large or too deep, has a key twice, or uses aliases or tags.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source}: longer than {MAX_BYTES} characters; this is no configuration")
    with reading(f"{source} as YAML", ConfigError):
        try:
            return yaml.load(text, Loader=_Loader)  # the loader is a SafeLoader
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
            problem = f"{error.problem}".replace("but found another document", "a second document begins; expected one")
            hint = "; indent by spaces, not by tabs" if "'\\t'" in problem else ""
            raise ConfigError(f"{source}{where}: {problem}{hint}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{source}: not readable as YAML: {error}") from None


def read(path: Path) -> object:
    """Parse a YAML file; see `parse`."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ConfigError(f"{path}: no ordinary file; expected a configuration in YAML")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        return parse(content.decode("utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8; expected a configuration in YAML") from None


def dump(data: dict[str, object]) -> str:
    """Write dictionaries, lists and scalars as YAML that `parse` reads back as the same."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
