"""Paths in the settings: those in a file start at its folder, those on the command line at the working directory."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finery.config.lines import Mistake
from finery.config.mistakes import Place

BUILT_IN_TEMPLATES = ("chatml",)
QUOTE_SIGNS = set("“”‘’「」『』＂＇")


def absolute_paths(values: dict[str, Any], folder: Path, given: set[str]) -> dict[str, Any]:
    """The values with absolute paths. A `model` that is no folder or file here is a name on the hub and stays."""

    def absolute(key: str, text: Any) -> Any:
        if not isinstance(text, str) or not text:
            return text
        start = Path() if key in given else folder
        return str((start / Path(text).expanduser()).absolute())

    def source(one: Any) -> Any:
        return (
            {**one, "path": absolute("data", one["path"])} if isinstance(one, dict) and "path" in one else absolute("data", one)
        )

    made = dict(values)
    if "data" in made:
        made["data"] = [source(one) for one in made["data"]] if isinstance(made["data"], list) else source(made["data"])
    if isinstance(made.get("model"), str) and made["model"] and Path(absolute("model", made["model"])).exists():
        made["model"] = absolute("model", made["model"])
    if made.get("template") not in BUILT_IN_TEMPLATES:
        made["template"] = absolute("template", made.get("template"))
    made["validation"] = absolute("validation", made.get("validation"))
    if isinstance(made.get("output"), str):
        made["output"] = str(Path(made["output"]).expanduser()) if made["output"] else None
    return {key: value for key, value in made.items() if value is not None or key in values}


def missing_files(values: dict[str, Any], place: Place) -> Iterator[Mistake]:
    """A mistake for each file that is named but not there."""
    for loc, name in named_files(values):
        path = Path(name)
        if not path.exists():
            line, where = place.of(loc)
            hint = quote_hint(path) or nearest_files(path)
            yield Mistake(line, f"{where}: {loc[0]}: there is no file or folder {path}; {hint}")


def named_files(values: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """(place in the settings, absolute path) of each."""
    data = values.get("data")
    for number, one in enumerate(data if isinstance(data, list) else [data]):
        loc: tuple[Any, ...] = ("data", number)
        if isinstance(one, dict):
            one, loc = one.get("path"), (*loc, "path")
        if isinstance(one, str) and one:
            yield loc, one
    if isinstance(values.get("template"), str) and values["template"] not in BUILT_IN_TEMPLATES:
        yield ("template",), values["template"]
    if isinstance(values.get("validation"), str) and values["validation"]:
        yield ("validation",), values["validation"]


def quote_hint(path: Path) -> str:
    if set(path.name) & QUOTE_SIGNS:
        return f'the quote signs are part of the name {path.name}: full-width quotes do not quote in YAML, write " or nothing'
    return ""


def nearest_files(path: Path) -> str:
    """What lies near a path that does not exist."""
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist either"
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except PermissionError:
        return f"the folder {folder} may not be read"
    near = difflib.get_close_matches(path.name, names, 3, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    more = ", ..." if len(names) > 10 else ""
    return f"in {folder} there are: {', '.join(names[:10]) or 'no files'}{more}"
