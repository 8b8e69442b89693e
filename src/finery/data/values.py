"""Values of a row, checked: text is text, JSON is JSON, and nothing is turned into the word None."""

from __future__ import annotations

import json
from typing import Any

from finery.errors import RowError

KINDS = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "a JSON object"}


def kind_of(value: Any) -> str:
    """The type of a JSON value in words, to follow "is"."""
    return "null" if value is None else KINDS.get(type(value), f"a {type(value).__name__}")


def text_of(value: Any, column: str) -> str:
    """The text; RowError where it is another type, or holds half of a surrogate pair, which no tokenizer can encode."""
    if not isinstance(value, str):
        kind = kind_of(value)
        name = column.split("[", 1)[0]
        raise RowError(f"`{name}` is {kind}", f"`{column}` is {kind}, not text", way_out="write such values as text, in quotes")
    if not value.isascii():
        whole_letters(value, column)
    return value


def whole_letters(text: str, column: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"`{column}` holds half of a surrogate pair (U+{ord(text[error.start]):04X}), which is no letter"
        raise RowError("half of a letter", what, way_out="write the whole letter, or leave it out") from None


def plain_json(value: Any, column: str) -> None:
    """RowError where a value can't be written as JSON: a date of a Parquet file, half of a letter, a number that is none."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        reason = f"`{column.split('[', 1)[0]}` can't be written as JSON"
        raise RowError(reason, f"`{column}` can't be written as JSON: {str(error)[:100]}") from None
    whole_letters(text, column)


def printable(text: str) -> str:
    """Text from a file that can be printed and written anywhere, half letters escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_json(value: Any, column: str) -> Any:
    """The value; text is read as JSON, blank text is None."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return loads(value)
    except ValueError as error:
        what = error.msg.lower() if isinstance(error, json.JSONDecodeError) else str(error)
        raise RowError(f"`{column.split('[', 1)[0]}` is not JSON", f"`{column}` is text that is not JSON ({what})") from None


def loads(text: str) -> Any:
    """JSON as the standard has it: NaN and Infinity are none. ValueError where it is not, or is nested too deep."""
    try:
        return DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value; write null")


DECODER = json.JSONDecoder(parse_constant=refuse_constant)
