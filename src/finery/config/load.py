"""From a YAML file and overrides to a frozen Config; all mistakes are told at once, with line and nearest right name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from finery.config.lines import Document, Dumper, all_at_once, parse, scalar
from finery.config.mistakes import COMMAND_LINE, Place, explain
from finery.config.names import looks_like_llamafactory, side_by_side
from finery.config.paths import absolute_paths, missing_files, nearest_files
from finery.config.schema import Config, as_variant, variants
from finery.errors import ConfigError

WAY_OUT = "`finery schema` prints every setting with its meaning"


def load_config(path: Path | str, overrides: Sequence[str] = (), files_must_exist: bool = True) -> Config:
    """The settings of a YAML file with `key=value` overrides; relative paths start at the file's folder.

    ConfigError lists every mistake, each with `file:line`, what was wrong and the nearest right name. Reading an old run's
    settings does not need its data: `files_must_exist=False`.
    """
    path = Path(path)
    document = parse(path, read(path))
    if looks_like_llamafactory(document.values):
        raise side_by_side(document)
    config = make_config(document.values, overrides, document, path.parent, files_must_exist)
    return config if config.output else config.model_copy(update={"output": str(Path("runs") / path.stem)})


def config_from_dict(values: dict[str, Any], overrides: Sequence[str] = (), files_must_exist: bool = True) -> Config:
    """The same from a dictionary; relative paths start at the working directory."""
    return make_config(values, overrides, None, Path(), files_must_exist)


def dump_config(config: Config) -> str:
    """YAML that `load_config` reads back to an equal Config."""
    return yaml.dump(json.loads(config.model_dump_json()), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a run's YAML, for editors; variants and sources may be given as a short string."""
    schema = Config.model_json_schema()
    for key, kinds in variants().items():
        field = schema["properties"][key]
        whole = {name: field.pop(name) for name in ("oneOf", "anyOf", "$ref", "discriminator") if name in field}
        field["anyOf"] = [{"type": "string", "enum": list(kinds)}, whole]
        if isinstance(field.get("default"), dict):
            field["default"] = field["default"]["type"]
    data = schema["properties"]["data"]
    source: list[dict[str, Any]] = [{"type": "string"}, data["items"]]
    many = {name: data.pop(name) for name in ("type", "items", "minItems")} | {"items": {"anyOf": source}}
    data["anyOf"] = [*source, many]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A Finery run"}


def read(path: Path) -> str:
    """The text of a settings file; ConfigError where it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("there is no such file", str(path), nearest_files(path)) from None
    except NotADirectoryError:
        raise ConfigError("there is no such file", str(path), f"{path.parent} is a file, not a folder") from None
    except IsADirectoryError:
        raise ConfigError("this is a folder, not a YAML file", str(path), "name the file in it") from None
    except PermissionError:
        raise ConfigError("this file may not be read", str(path), f"chmod u+r {path}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"not UTF-8 text (byte {error.start})", f"{path}:{line}", "save it as UTF-8 in your editor") from None


def make_config(
    values: dict[str, Any], overrides: Sequence[str], document: Document | None, folder: Path, files_must_exist: bool
) -> Config:
    """A Config, or one ConfigError with all mistakes."""
    values = dict(values)
    given = apply_overrides(values, overrides)
    place = Place(document, given, values)
    values = absolute_paths(values, folder, given)
    mistakes = list(document.mistakes) if document is not None else []
    if files_must_exist:
        mistakes += missing_files(values, place)
    try:
        config = Config.model_validate(values)
    except ValidationError as bad:
        mistakes += [mistake for error in bad.errors() for mistake in explain(error, place)]
        raise all_at_once(mistakes, WAY_OUT) from None
    if mistakes:
        raise all_at_once(mistakes)
    return config


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> set[str]:
    """Put `key=value` and `a.b=value` into `values`; returns the names that were given so."""
    given = set()
    for text in overrides:
        name, equals, value = (part.strip() for part in text.partition("="))
        keys = name.split(".")
        if not equals or not all(keys):
            raise ConfigError(f"`{text}` is not KEY=VALUE", COMMAND_LINE, "for instance learning_rate=1e-4 adapter.rank=32")
        if not value:
            raise ConfigError(f"`{text}` has no value", COMMAND_LINE, f"{name}=null takes the default back")
        if len(keys) > 1 and keys[0] in Config.model_fields.keys() - variants().keys():
            raise ConfigError(f"`{keys[0]}` holds no `{'.'.join(keys[1:])}`", COMMAND_LINE, f"give it whole: {keys[0]}=VALUE")
        given.add(name)
        inside = values
        for depth, key in enumerate(keys[:-1]):
            old = inside.get(key)
            if depth == 0 and key in variants():
                old = as_variant(key, old)
            inside[key] = dict(old) if isinstance(old, dict) else {}
            inside = inside[key]
        inside[keys[-1]] = word_or_value(name, value)
    return given


def word_or_value(name: str, text: str) -> Any:
    """Names and paths are taken as they stand, whatever YAML would make of them; everything else is YAML."""
    if name not in ("model", "output", "template"):
        return scalar(text, COMMAND_LINE)
    return None if text == "null" else text
