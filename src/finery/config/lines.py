"""YAML with its lines: every value knows where it stood, and what an editor or an input method broke is told in a sentence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finery.errors import ConfigError

FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
INT = re.compile(r"^[-+]?[0-9]+$")


class Loader(yaml.SafeLoader):
    """Safe YAML with the numbers and booleans of version 1.2: `1e-4` is a number, `yes` and `off` are words."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":int", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
Loader.add_implicit_resolver("tag:yaml.org,2002:int", INT, list("-+0123456789"))
Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"), list("-+."))


@dataclass
class Document:
    """A settings file: its values, and the lines that they stand in."""

    path: Path
    values: dict[str, Any]
    node: yaml.MappingNode | None

    def line_of(self, loc: Sequence[Any]) -> int:
        """Line, from 1, of the deepest part of `loc` that the file really has."""
        node: Any = self.node
        line = node.start_mark.line if node is not None else 0
        for key in loc:
            if isinstance(node, yaml.MappingNode):
                hit = next(((k, v) for k, v in node.value if k.value == str(key)), None)
                if hit is None:
                    break
                line, node = hit[0].start_mark.line, hit[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                node = node.value[key]
                line = node.start_mark.line
        return line + 1

    def line_containing(self, key: str, text: str) -> int:
        """Line of the value under `key` whose text ends with `text`, else of the key."""
        pending: list[Any] = [v for k, v in (self.node.value if self.node is not None else ()) if k.value == key]
        while pending:
            node = pending.pop()
            if isinstance(node, yaml.ScalarNode) and node.value.endswith(text):
                return node.start_mark.line + 1
            if isinstance(node, yaml.SequenceNode):
                pending += node.value
            elif isinstance(node, yaml.MappingNode):
                pending += [v for _, v in node.value]
        return self.line_of([key])


def parse(path: Path, text: str) -> Document:
    """The document; ConfigError with the right line where it can't be read."""
    refuse_tabs_and_wide_signs(path, text)
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise ConfigError("this file is empty", str(path), "a run needs at least `model:` and `data:`")
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(
                "this is not a list of settings", f"{path}:1", "write `key: value` lines, for instance `model: ...`"
            )
        refuse_duplicates(path, node)
        return Document(path, loader.construct_document(node), node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        problem = error.problem or error.context or "not YAML"
        raise ConfigError(f"not YAML: {problem}", f"{path}:{line}", "check indents, colons and quotes on that line") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {str(error).splitlines()[0]}", str(path), "check indents, colons and quotes") from None
    finally:
        loader.dispose()


def scalar(text: str, where: str) -> Any:
    """The value of an override: a number, a word, or a list or mapping in YAML's flow style."""
    loader = Loader(text)
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"`{text}` can't be read: {str(error).splitlines()[0]}", where, "put it in quotes") from None
    finally:
        loader.dispose()


def refuse_tabs_and_wide_signs(path: Path, text: str) -> None:
    """What the parser would blame on another line: tabs as indent, full-width colons and spaces."""
    for number, line in enumerate(text.splitlines(), 1):
        body = line.lstrip()
        if not body or body.startswith("#"):
            continue
        indent = line[: len(line) - len(body)]
        where = f"{path}:{number}"
        if "\t" in indent:
            raise ConfigError("a tab is used as indent; YAML allows only spaces", where, "replace the tab by two spaces")
        if wide := next((c for c in indent if c not in " \t"), None):
            name = "full-width space" if wide == "\u3000" else unicodedata.name(wide, "unknown")
            way_out = "replace it by ordinary spaces"
            raise ConfigError(f"the indent holds a {name} (U+{ord(wide):04X})", where, way_out)
        key = re.match(r"[-\s]*([A-Za-z_][\w.]*)\s*：", line)
        if key:
            raise ConfigError(
                f"a full-width colon ： (U+FF1A) follows `{key[1]}`",
                where,
                f"write `{key[1]}: ` with an ordinary colon and a space",
            )


def refuse_duplicates(path: Path, node: yaml.Node) -> None:
    """The same key twice: YAML would take the last one in silence."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError("a setting's name must be a word", f"{path}:{line}", "write `key: value`")
            if key.value in seen:
                raise ConfigError(
                    f"`{key.value}` is given twice, in lines {seen[key.value]} and {line}",
                    f"{path}:{line}",
                    "remove one of them",
                )
            seen[key.value] = line
            refuse_duplicates(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            refuse_duplicates(path, value)
