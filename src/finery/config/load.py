"""From a YAML file and overrides to a frozen Config; all mistakes are told at once, with line and nearest right name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from finery.config.lines import Document, parse, scalar
from finery.config.names import OTHER_NAMES, looks_like_llamafactory, side_by_side
from finery.config.schema import Config, Section, variants
from finery.errors import ConfigError

COMMAND_LINE = "on the command line"


def load_config(path: Path | str, overrides: Sequence[str] = (), files_must_exist: bool = True) -> Config:
    """The settings of a YAML file with `key=value` overrides; relative paths start at the file's folder.

    ConfigError lists every mistake, each with `file:line`, what was wrong and the nearest right name. Reading an old run's
    settings does not need its data: `files_must_exist=False`.
    """
    path = Path(path)
    document = parse(path, read(path))
    if looks_like_llamafactory(document.values):
        raise side_by_side(document)
    values = short_forms(document.values)
    given = apply_overrides(values, overrides)
    config = validate(values, document, given)
    config = with_absolute_paths(config, path.parent, given)
    if files_must_exist:
        must_exist(config, document, given)
    return config if config.output else config.model_copy(update={"output": str(Path("runs") / path.stem)})


def config_from_dict(values: dict[str, Any], overrides: Sequence[str] = (), files_must_exist: bool = True) -> Config:
    """The same from a dictionary; relative paths start at the working directory."""
    values = short_forms(values)
    given = apply_overrides(values, overrides)
    config = with_absolute_paths(validate(values, None, given), Path(), given)
    if files_must_exist:
        must_exist(config, None, given)
    return config


def dump_config(config: Config) -> str:
    """YAML that `load_config` reads back to an equal Config."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, allow_unicode=True, width=120)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a run's YAML, for editors; a variant may be given as a short string."""
    schema = Config.model_json_schema()
    for key, kinds in variants().items():
        field = schema["properties"][key]
        whole = {name: field.pop(name) for name in ("oneOf", "anyOf", "$ref", "discriminator") if name in field}
        field["anyOf"] = [{"type": "string", "enum": list(kinds)}, whole]
        if isinstance(field.get("default"), dict):
            field["default"] = field["default"]["type"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A Finery run", **schema}


# --- reading -----------------------------------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """The text of a settings file; ConfigError where it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("there is no such file", str(path), nearest_files(path)) from None
    except IsADirectoryError:
        raise ConfigError("this is a folder, not a YAML file", str(path), "name the file in it") from None
    except PermissionError:
        raise ConfigError("this file may not be read", str(path), f"chmod u+r {path}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text (byte {error.start})", str(path), "save it as UTF-8 in your editor") from None


def short_forms(values: dict[str, Any]) -> dict[str, Any]:
    """`adapter: lora` becomes `adapter: {type: lora}`."""
    kinds = variants()
    return {k: {"type": v} if k in kinds and isinstance(v, str) else v for k, v in values.items()}


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> set[str]:
    """Put `key=value` and `a.b=value` into `values`; returns the keys at the top that were given so."""
    given = set()
    kinds = variants()
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"`{text}` is not KEY=VALUE", COMMAND_LINE, "for instance learning_rate=1e-4 adapter.rank=32")
        keys = name.strip().split(".")
        given.add(keys[0])
        place = values
        for key in keys[:-1]:
            if not isinstance(place.get(key), dict):
                place[key] = {}
            place = place[key]
        new = scalar(value, COMMAND_LINE)
        place[keys[-1]] = {"type": new} if len(keys) == 1 and keys[0] in kinds and isinstance(new, str) else new
    for key, sections in kinds.items():  # adapter.rank=8 alone means the default variant
        if isinstance(values.get(key), dict) and "type" not in values[key]:
            values[key] = {"type": default_variant(key, sections), **values[key]}
    return given


def default_variant(key: str, sections: dict[str, type[Section]]) -> str:
    default = Config.model_fields[key].default
    return next(name for name, section in sections.items() if isinstance(default, section))


# --- validation --------------------------------------------------------------------------------------------------------------


def validate(values: dict[str, Any], document: Document | None, given: set[str]) -> Config:
    """A Config, or one ConfigError with all mistakes."""
    not_given = {k: v for k, v in values.items() if v is None and k not in ("clip",)}
    kept = {k: v for k, v in values.items() if k not in not_given}
    try:
        return Config.model_validate(kept)
    except ValidationError as bad:
        mistakes = sorted({one_mistake(error, document, given, kept) for error in bad.errors()}, key=lambda m: (m[0], m[1]))
    lines = [text for _, text in mistakes]
    count = f"{len(lines)} mistakes in the settings:\n" if len(lines) > 1 else ""
    raise ConfigError(count + "\n".join(lines), way_out="`finery schema` prints every setting with its meaning")


def one_mistake(error: Any, document: Document | None, given: set[str], values: dict[str, Any]) -> tuple[int, str]:
    """(line, `file:line: key: what; the right name`) of one of pydantic's errors."""
    loc = [part for part in error["loc"] if not is_tag(part, error["loc"])]
    name = ".".join(str(part) for part in loc)
    if document is None or (loc and loc[0] in given):
        line, where = 0, COMMAND_LINE if loc and loc[0] in given else "settings"
    else:
        line = document.line_of(loc)
        where = f"{document.path}:{line}"
    return line, f"{where}: {name}: {what_is_wrong(error, loc, values)}"


def is_tag(part: Any, loc: Iterable[Any]) -> bool:
    """Pydantic puts the tag of a union into the place of a mistake: `adapter.lora.rank`."""
    first, *rest = loc
    kinds = variants()
    if first in kinds and rest and part is rest[0] and part in kinds[first]:
        return True
    return isinstance(part, str) and (part in ("str", "float", "int", "Source") or part.startswith("list["))


def what_is_wrong(error: Any, loc: list[Any], values: dict[str, Any]) -> str:
    """A sentence, with the way out in it."""
    kind, given = error["type"], error.get("input")
    shown = f"`{str(given)[:60]}`"
    match kind:
        case "extra_forbidden":
            return f"there is no such setting{suggestion(loc, values)}"
        case "missing":
            return "this setting is needed"
        case "union_tag_invalid" | "literal_error":
            options = error["ctx"].get("expected_tags") or error["ctx"].get("expected")
            near = difflib.get_close_matches(
                str(given.get("type") if isinstance(given, dict) else given), option_names(options), 1
            )
            hint = f", did you mean `{near[0]}`?" if near else ""
            said = given.get("type") if isinstance(given, dict) else given
            return f"`{said}` is none of {options}{hint}"
        case "finite_number":
            return f"{shown} is not a finite number"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            sign = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}[kind]
            bound = next(v for k, v in error["ctx"].items() if k in ("gt", "ge", "lt", "le"))
            return f"{shown} is out of range: it must be {sign} {bound}"
        case "float_parsing" | "float_type" | "int_parsing" | "int_type" | "int_from_float":
            whole = " whole" if kind.startswith("int") else ""
            return f"{shown} is not a{whole} number{full_width_hint(given)}"
    return f"{error['msg'].removeprefix('Value error, ')} (found {shown})"


def option_names(options: str) -> list[str]:
    return [part.strip(" '\"") for part in options.replace(" or ", ",").split(",")]


def full_width_hint(given: Any) -> str:
    """Chinese input methods leave full-width digits."""
    import unicodedata

    if isinstance(given, str) and (plain := unicodedata.normalize("NFKC", given)) != given:
        return f"; it is written with full-width characters, write `{plain}`"
    return ""


def suggestion(loc: list[Any], values: dict[str, Any]) -> str:
    """The nearest right name for an unknown key."""
    *parents, key = loc
    if not parents and key in OTHER_NAMES:
        return f"; here it is `{OTHER_NAMES[key]}`"
    names = field_names(parents, values)
    near = difflib.get_close_matches(str(key), names, 1, cutoff=0.5)
    if near:
        return f", did you mean `{near[0]}`?"
    if not parents:
        inside = [f"{k}.{n}" for k, kinds in variants().items() for s in kinds.values() for n in s.model_fields if n == key]
        if inside:
            return f"; it belongs under `{inside[0]}`"
    return f"; there are: {', '.join(names)}"


def field_names(parents: list[Any], values: dict[str, Any]) -> list[str]:
    """The settings that are possible at a place."""
    if not parents:
        return sorted(Config.model_fields)
    kinds = variants()
    if parents[0] in kinds:
        chosen = values[parents[0]].get("type") if isinstance(values.get(parents[0]), dict) else None
        return sorted(kinds[parents[0]][chosen].model_fields if chosen in kinds[parents[0]] else ())
    from finery.config.schema import Source

    return sorted(Source.model_fields)


# --- paths -------------------------------------------------------------------------------------------------------------------


def with_absolute_paths(config: Config, folder: Path, given: set[str]) -> Config:
    """Paths in a file start at its folder, paths on the command line at the working directory."""
    from finery.config.schema import Source

    def absolute(key: str, text: str) -> str:
        return str(((Path() if key in given else folder) / Path(text).expanduser()).absolute())

    update: dict[str, Any] = {}
    sources = config.data if isinstance(config.data, list) else [config.data]
    whole = [Source(path=source) if isinstance(source, str) else source for source in sources]
    update["data"] = [source.model_copy(update={"path": absolute("data", source.path)}) for source in whole]
    if Path(absolute("model", config.model)).exists():
        update["model"] = absolute("model", config.model)
    if config.template is not None and config.template != "chatml":
        update["template"] = absolute("template", config.template)
    if isinstance(config.validation, str):
        update["validation"] = absolute("validation", config.validation)
    return config.model_copy(update=update)


def must_exist(config: Config, document: Document | None, given: set[str]) -> None:
    """ConfigError for each file that is named but not there."""
    wanted = [("data", source.path) for source in config.data]  # type: ignore[union-attr]
    wanted += [("template", config.template)] if config.template not in (None, "chatml") else []
    wanted += [("validation", config.validation)] if isinstance(config.validation, str) else []
    mistakes, hints = [], []
    for key, name in wanted:
        path = Path(str(name))
        if not path.exists():
            line = document.line_containing(key, path.name) if document is not None else 0
            where = COMMAND_LINE if key in given or document is None else f"{document.path}:{line}"
            mistakes.append(f"{where}: {key}: there is no file or folder {path}")
            hints.append(quote_hint(path) or nearest_files(path))
    if mistakes:
        raise ConfigError("\n".join(mistakes), way_out="; ".join(dict.fromkeys(hints)))


def quote_hint(path: Path) -> str:
    if set(path.name) & set("“”‘’「」"):
        return f"the quote signs are part of the name {path.name}: full-width quotes don't quote in YAML, write \" or nothing"
    return ""


def nearest_files(path: Path) -> str:
    """What lies near a path that does not exist."""
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist either"
    names = sorted(entry.name for entry in folder.iterdir())
    near = difflib.get_close_matches(path.name, names, 3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"in {folder} there are: {', '.join(names[:10]) or 'no files'}"
