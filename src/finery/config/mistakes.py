"""What pydantic found wrong, in a sentence: where, what, and the nearest right name."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from finery.config.lines import FLOAT, Document, Mistake
from finery.config.names import OTHER_NAMES
from finery.config.schema import Config, Section, Source, variants

COMMAND_LINE = "on the command line"
BOUNDS = {"Gt": ("gt", "above"), "Ge": ("ge", "at least"), "Lt": ("lt", "below"), "Le": ("le", "at most")}


@dataclass(frozen=True)
class Place:
    """Where settings stood: in a document, on the command line (their names are in `given`), or in a dictionary."""

    document: Document | None
    given: set[str]
    values: dict[str, Any]  # as they stood there

    def of(self, loc: Sequence[Any]) -> tuple[int, str]:
        """(line, `file:line`) of a setting; line 0 where it is in no file."""
        if self.on_command_line(loc):
            return 0, COMMAND_LINE
        if self.document is None:
            return 0, "settings"
        line = self.document.line_of(self.as_written(loc))
        return line, f"{self.document.path}:{line}"

    def slip(self, loc: Sequence[Any]) -> tuple[int, str] | None:
        """(line, sentence) of a slip of the keyboard in the lines of a setting."""
        if self.document is None or self.on_command_line(loc):
            return None
        first, last = self.document.find(self.as_written(loc))
        return next(((line, self.document.signs[line]) for line in range(first, last + 1) if line in self.document.signs), None)

    def on_command_line(self, loc: Sequence[Any]) -> bool:
        """Whether the setting, or one that holds it, was given there; or one inside it, and the file says nothing of it."""
        if any(".".join(map(str, loc[:depth])) in self.given for depth in range(1, len(loc) + 1)):
            return True
        only_there = bool(loc) and (self.document is None or loc[0] not in self.document.values)
        return only_there and any(name.startswith(f"{loc[0]}.") for name in self.given)

    def as_written(self, loc: Sequence[Any]) -> list[Any]:
        """A single source stands without its list."""
        if len(loc) > 1 and loc[0] == "data" and not isinstance(self.values.get("data"), list):
            return [loc[0], *loc[2:]]
        return list(loc)


def explain(error: Any, place: Place) -> Iterator[Mistake]:
    """The mistakes behind one of pydantic's errors, each with its place."""
    loc = without_tags(error["loc"])
    if error["type"] == "contradictions":
        for key, text in error["ctx"]["found"].items():
            yield told(place, [key], text)
    elif slip := place.slip(loc):
        assert place.document is not None
        yield Mistake(slip[0], f"{place.document.path}:{slip[0]}: {slip[1]}")
    else:
        yield told(place, loc, what_is_wrong(error, loc, place.values))


def told(place: Place, loc: Sequence[Any], what: str) -> Mistake:
    line, where = place.of(loc)
    return Mistake(line, f"{where}: {'.'.join(map(str, place.as_written(loc)))}: {what}")


def without_tags(loc: Sequence[Any]) -> list[Any]:
    """Pydantic puts the tag of a variant into the place (`adapter.lora.rank`), and the types of a union."""
    first, *rest = loc or ("",)
    if first in variants() and rest and rest[0] in variants()[first]:
        rest = rest[1:]
    elif first == "validation":
        rest = []
    return [first, *rest] if first else []


def what_is_wrong(error: Any, loc: Sequence[Any], values: dict[str, Any]) -> str:
    """A sentence, with the way out in it."""
    kind, given = error["type"], error.get("input")
    shown = f"`{as_yaml(given)}`"
    match kind:
        case "extra_forbidden":
            return f"there is no such setting{nearest_name(loc, values)}"
        case "missing":
            return "this setting is needed"
        case "union_tag_invalid" | "literal_error":
            options = error["ctx"].get("expected_tags") or error["ctx"].get("expected")
            return none_of(given["type"] if isinstance(given, dict) else given, options)
        case "model_attributes_type" | "model_type" | "dict_type":
            return f"{shown} is not possible here; {shape_of(loc)}"
        case "finite_number":
            return f"{shown} is not a finite number"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return f"{shown} is out of range: it must be {allowed_range(loc, values)}"
        case "float_parsing" | "float_type" | "int_parsing" | "int_type" | "int_from_float":
            return f"{shown} is not a{' whole' if kind.startswith('int') else ''} number{number_hint(given)}"
        case "bool_type":
            return f"{shown} is neither true nor false"
        case "string_type":
            return f'{shown} is not text; write it in quotes: "{as_yaml(given)}"' if plain(given) else f"{shown} is not text"
        case "list_type":
            return f"{shown} is not a list; write [{as_yaml(given)}]" if plain(given) else f"{shown} is not a list"
        case "too_short" | "string_too_short":
            return "this must not be empty"
    return str(error["msg"]).removeprefix("Value error, ")


def as_yaml(given: Any) -> str:
    """A value as it may have stood in the file, cut where it is long."""
    return (str(given).lower() if isinstance(given, bool) else str(given))[:60]


def plain(given: Any) -> bool:
    return isinstance(given, str | int | float)


def none_of(given: Any, options: str) -> str:
    names = [part.strip(" '\"") for part in options.replace(" or ", ",").split(",")]
    near = difflib.get_close_matches(str(given), names, 1)
    return f"`{str(given)[:60]}` is none of {', '.join(names)}" + (f", did you mean `{near[0]}`?" if near else "")


def shape_of(loc: Sequence[Any]) -> str:
    """How a setting that holds others is written."""
    if loc and loc[0] in variants():
        name = next(iter(variants()[loc[0]]))
        return f"write `{loc[0]}: {name}`, or `{loc[0]}: {{type: {name}, ...}}` with one of {', '.join(variants()[loc[0]])}"
    if loc and loc[0] == "data" and len(loc) == 2:
        return "write a path, or `{path: FILE, weight: 1.0}`"
    return "write `key: value` lines"


def number_hint(given: Any) -> str:
    """Words that nearly are numbers: in quotes, or in the full-width digits of Chinese input methods."""
    if not isinstance(given, str):
        return ""
    if (usual := unicodedata.normalize("NFKC", given)) != given:
        return f"; it is written with full-width characters, write `{usual}`"
    return "; leave the quotes out" if FLOAT.match(given) else ""


def nearest_name(loc: Sequence[Any], values: dict[str, Any]) -> str:
    """The right name for an unknown key: the nearest one here, one of another tool, or one at another place."""
    *parents, key = loc
    usual = unicodedata.normalize("NFKC", str(key)).strip()
    section = section_at(parents, values)
    ours = OTHER_NAMES.get(usual, "")
    if ours and not parents:
        return f"; here it is `{ours}`"
    if ours and ours.startswith(f"{parents[0]}.") and ours.split(".")[1] in names_of(section):
        return f"; here it is `{ours.split('.')[1]}`"
    near = difflib.get_close_matches(usual, names_of(section), 1, cutoff=0.6)
    if near:
        wide = " (the name is written with full-width characters)" if usual != str(key) else ""
        return f", did you mean `{near[0]}`?{wide}"
    elsewhere = [
        f"{k}.{name}" for k, kinds in variants().items() for s in kinds.values() for name in s.model_fields if name == usual
    ]
    if parents and usual in Config.model_fields:
        return f"; `{usual}` stands at the top, not under `{parents[0]}`"
    if elsewhere and not parents:
        return f"; it belongs under `{elsewhere[0]}`"
    return f"; there are: {', '.join(names_of(section))}" if parents else ""


def section_at(parents: Sequence[Any], values: dict[str, Any]) -> type[Section] | None:
    """The group of settings at a place; None where a variant is not known."""
    if not parents:
        return Config
    if parents[0] == "data":
        return Source
    kinds, chosen = variants().get(parents[0], {}), values.get(parents[0])
    name = chosen.get("type") if isinstance(chosen, dict) else chosen
    return kinds.get(str(name) if name is not None else Config.model_fields[parents[0]].default.type)


def names_of(section: type[Section] | None) -> list[str]:
    return sorted(section.model_fields) if section is not None else []


def allowed_range(loc: Sequence[Any], values: dict[str, Any]) -> str:
    section = section_at(loc[:-1], values)
    assert section is not None
    field: FieldInfo = section.model_fields[loc[-1]]
    bounds = [(BOUNDS[type(rule).__name__], rule) for rule in field.metadata if type(rule).__name__ in BOUNDS]
    return " and ".join(f"{word} {getattr(rule, name):g}" for (name, word), rule in bounds)
