"""YAML with its lines: every value knows where it stood, and what an editor or an input method broke is told in a sentence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from finery.errors import ConfigError

INT = re.compile(r"^[-+]?[0-9]{1,18}$")
FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
NOT_FINITE = re.compile(r"^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$")
BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
DIFFERENT_IN_1_1 = (":bool", ":float", ":int", ":timestamp", ":merge")


class Loader(yaml.SafeLoader):
    """Safe YAML with the numbers and booleans of version 1.2: `1e-4` is a number, `yes` and `off` are words."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse what settings never need and what could hide or multiply values."""
        event = self.peek_event()
        problem = ""
        if isinstance(event, yaml.AliasEvent):
            problem = "`*NAME` repeats another value, which settings can't"
        elif event.tag:
            problem = f"the tag {event.tag} is not allowed in settings"
        elif isinstance(parent, yaml.MappingNode) and index is None and not isinstance(event, yaml.ScalarEvent):
            problem = "the name of a setting must be a word"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


class Dumper(yaml.SafeDumper):
    """Puts quotes around whatever either version of YAML would not read back as the same word."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """Line separators such as U+0085 come back as spaces from any but the double quotes."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


Dumper.add_representer(str, Dumper.represent_str)

Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(DIFFERENT_IN_1_1)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for either in (Loader, Dumper):
    either.add_implicit_resolver("tag:yaml.org,2002:bool", BOOL, list("tTfF"))
    either.add_implicit_resolver("tag:yaml.org,2002:int", INT, list("-+0123456789"))
    either.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))
    either.add_implicit_resolver("tag:yaml.org,2002:float", NOT_FINITE, list("-+."))


class Mistake(NamedTuple):
    """One thing that is wrong; line 0 is the command line."""

    line: int
    text: str  # with the place, and the way out where there is one


def all_at_once(mistakes: Sequence[Mistake], way_out: str = "") -> ConfigError:
    """One error that tells all of them, in the order of the file."""
    texts = [text for _, text in sorted(set(mistakes))]
    count = f"{len(texts)} mistakes in the settings:\n" if len(texts) > 1 else ""
    return ConfigError(count + "\n".join(texts), way_out=way_out)


@dataclass
class Document:
    """A settings file: its values, and the lines that they stand in."""

    path: Path
    values: dict[str, Any]
    node: yaml.MappingNode
    signs: dict[int, str] = field(default_factory=dict)  # line -> what looks like a slip of the keyboard there
    mistakes: list[Mistake] = field(default_factory=list)  # keys given twice

    def find(self, loc: Sequence[Any]) -> tuple[int, int]:
        """First and last line, from 1, of the deepest part of `loc` that the file really has."""
        node: yaml.Node = self.node
        first = last = node.start_mark.line
        for key in loc:
            if isinstance(node, yaml.MappingNode):
                hit = next(((k, v) for k, v in reversed(node.value) if k.value == str(key)), None)
                if hit is None:
                    break
                first, node = hit[0].start_mark.line, hit[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                node = node.value[key]
                first = node.start_mark.line
            else:
                break
            ends_before = node.end_mark.column == 0 and node.end_mark.line > first
            last = node.end_mark.line - int(ends_before)
        return first + 1, max(first, last) + 1

    def line_of(self, loc: Sequence[Any]) -> int:
        return self.find(loc)[0]


def parse(path: Path, text: str) -> Document:
    """The document; ConfigError with the right line where it can't be read."""
    signs = dict(slips(text))
    node = compose(path, text, signs)
    if not isinstance(node, yaml.MappingNode):
        if signs:
            raise all_at_once([Mistake(line, f"{path}:{line}: {what}") for line, what in signs.items()])
        what = "this file is empty" if node is None else "this is not a list of settings"
        raise ConfigError(what, f"{path}:1", "write `key: value` lines; a run needs at least `model:` and `data:`")
    mistakes = [
        Mistake(line, f"{path}:{line}: `{key}` is given twice, in lines {before} and {line}; remove one of them")
        for key, before, line in given_twice(node)
    ]
    return Document(path, values_of(node), node, signs, mistakes)


def compose(path: Path, text: str, signs: dict[int, str]) -> yaml.Node | None:
    """The tree of a file. ConfigError where it is not YAML: the slips that are likely its cause, or what the parser says."""
    try:
        while True:
            try:
                return Loader(text).get_single_node()
            except yaml.MarkedYAMLError as error:
                text = without_the_tab(text, error)
    except yaml.MarkedYAMLError as error:
        if signs:
            raise all_at_once([Mistake(line, f"{path}:{line}: {what}") for line, what in signs.items()]) from None
        # A key without its colon is only missed at the end of the next line.
        late = error.problem == "could not find expected ':'" and error.context_mark is not None
        mark = error.context_mark if late else error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part) or "it can't be read"
        line = mark.line + 1 if mark is not None else 1
        raise ConfigError(f"not YAML: {what}", f"{path}:{line}", "check indents, colons and quotes on that line") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise ConfigError(f"there is a character U+{code:04X} that no text has", f"{path}:{line}", "delete it") from None
    except RecursionError:
        raise ConfigError("brackets are nested too deeply", str(path), "settings need at most three levels") from None


def without_the_tab(text: str, error: yaml.MarkedYAMLError) -> str:
    """YAML allows a tab between a value and a comment, PyYAML does not (yaml/pyyaml#450). Raises any other error again."""
    mark = error.problem_mark
    if mark is None or "'\\t' that cannot start any token" not in str(error.problem):
        raise error
    before = text[: mark.index].rpartition("\n")[2]
    if text[mark.index] != "\t" or not before.strip(" -\t"):
        raise error
    return text[: mark.index] + " " + text[mark.index + 1 :]


def values_of(node: yaml.Node) -> Any:
    """Plain Python values; keys are words whatever they look like. A composed tree holds no tag but the implied ones."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: values_of(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [values_of(value) for value in node.value]
    match node.tag.rpartition(":")[2]:
        case "null":
            return None
        case "bool":
            return node.value.lower() == "true"
        case "int":
            return int(node.value)  # 010 is ten in YAML 1.2
        case "float":
            return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return node.value


def scalar(text: str, where: str) -> Any:
    """The value of an override: a number, a word, or a list or mapping in YAML's flow style."""
    try:
        node = Loader(text).get_single_node()
    except (yaml.YAMLError, RecursionError) as error:
        what = getattr(error, "problem", None) or "it is not YAML"
        raise ConfigError(f"`{text[:60]}` can't be read: {what}", where, "put it in quotes") from None
    if node is not None and (twice := next(given_twice(node), None)):
        raise ConfigError(f"`{twice[0]}` is given twice in `{text[:60]}`", where, "remove one of them")
    return None if node is None else values_of(node)


def given_twice(node: yaml.Node) -> Iterator[tuple[str, int, int]]:
    """(key, first line, second line) of keys that stand twice in one mapping: YAML would take the last one in silence."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                yield name, seen[name], line
            seen[name] = line
            yield from given_twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from given_twice(value)


KEY = r"[A-Za-z_][\w.]*"


def slips(text: str) -> Iterator[tuple[int, str]]:
    """(line, sentence) of what editors and Chinese input methods leave behind. Some of it is legal YAML that means
    something else, so these only explain mistakes that are found by other means."""
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        body = line.lstrip()
        if body and not body.startswith("#") and (what := slip(line[: len(line) - len(body)], body)):
            yield number, what


def slip(indent: str, body: str) -> str:
    """The sentence for one line, or nothing."""
    if "\t" in indent:
        return "a tab is used as indent, YAML allows only spaces; replace it by two spaces"
    if wide := next((sign for sign in indent if sign != " "), None):
        return f"the indent holds a {name_of(wide)}; replace it by ordinary spaces"
    if found := re.match(rf"(?:- +)*({KEY})\s*：", body):
        return f"a full-width colon ： (U+FF1A) follows `{found[1]}`; write `{found[1]}: ` with an ordinary colon and a space"
    if found := re.match(rf"(?:- +)*({KEY})\s*:([^\x00-\x7f])", body):
        if found[2].isspace():
            return f"a {name_of(found[2])} follows `{found[1]}:`; write an ordinary space there"
        return f"there is no space after `{found[1]}:`; write one"
    if found := re.match(rf"(?:- +)*({KEY}):(?=[^\s:/\\])", body):
        return f"there is no space after `{found[1]}:`; write one"
    if body[0] in "－—–":
        return f"the line begins with a {name_of(body[0])}; a list needs `- `, an ordinary minus and a space"
    return ""


def name_of(sign: str) -> str:
    name = {"\u3000": "full-width space", "－": "full-width minus"}.get(sign, unicodedata.name(sign, "strange sign").lower())
    return f"{name} (U+{ord(sign):04X})"
