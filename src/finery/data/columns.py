"""Which column of a row is what: by the names in use, by the user's mapping, and what to write where neither tells."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finery.errors import DataError

# The right names (those of `columns:` in the settings), and what data sets call the same thing.
NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "prompt": ("prompt", "instruction", "question", "query", "problem"),
    "input": ("input", "context"),
    "answer": ("answer", "output", "response", "completion", "target", "solution"),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "tools": ("tools", "functions"),
    "chosen": ("chosen", "chosen_messages"),
    "rejected": ("rejected", "rejected_messages"),
    "label": ("label", "kto_tag"),
    "text": ("text", "content"),
}
MEDIA = {"images": "images", "image": "images", "videos": "videos", "video": "videos", "audios": "audio", "audio": "audio"}
RIGHT_NAME = {column: right for right, columns in NAMES.items() for column in columns}
ALIKE = 0.84  # from this likeness on an unknown column is taken for a misspelt one: `ouput` has 0.91, `prompt_id` 0.8

Columns = Mapping[str, str]  # right name -> column of the row


def columns_of(row: Mapping[str, Any], mapping: Mapping[str, str]) -> Columns:
    """The columns that hold something, by right name. The user's mapping comes first; a mapped column has no other meaning.

    DataError where two columns could be the same thing: it is not guessed.
    """
    found: dict[str, str] = {}
    taken = set(mapping.values())
    for column, value in row.items():
        right = RIGHT_NAME.get(column)
        if value is None or right is None or right in mapping or column in taken:
            continue
        if right in found and found[right] in row:
            first, second = sorted((found[right], column), key=NAMES[right].index)
            if right in ("prompt", "answer", "input"):
                raise two_columns(right, first, second)
            column = first
        found[right] = column
    found |= {right: column for right, column in mapping.items() if row.get(column) is not None}
    return found


def two_columns(right: str, first: str, second: str) -> DataError:
    return DataError(
        f"both `{first}` and `{second}` could be the {right}",
        way_out=f"say which, in the YAML: data: {{path: FILE, columns: {{{right}: {first}}}}}",
    )


def check_mapped_columns(mapping: Mapping[str, str], columns: Sequence[str], label: str) -> None:
    """DataError where a mapped column is in no row."""
    for right, column in mapping.items():
        if column not in columns:
            near = difflib.get_close_matches(column, columns, 1, cutoff=0.6)
            hint = f"did you mean {near[0]}? " if near else ""
            raise DataError(
                f"{label} has no column `{column}`, which `columns` names as the {right}",
                label,
                f"{hint}its columns are {', '.join(columns)}",
            )


def misspelt(columns: Iterable[str], rights: Iterable[str]) -> dict[str, str]:
    """Unknown columns that look like a known one of these right names which is missing: column -> right spelling."""
    columns = list(columns)
    present = {RIGHT_NAME[column] for column in columns if column in RIGHT_NAME}
    missing = [name for right in rights if right not in present for name in NAMES[right]]
    found = {}
    for column in columns:
        if column not in RIGHT_NAME and (near := difflib.get_close_matches(column.lower(), missing, 1, cutoff=ALIKE)):
            found[column] = near[0]
    return found


def misspelt_error(label: str, found: Mapping[str, str]) -> DataError:
    shown = ", ".join(f"`{column}` looks like `{right}`" for column, right in found.items())
    mapping = ", ".join(f"{RIGHT_NAME[right]}: {column}" for column, right in found.items())
    return DataError(
        f"{label} has a column name that looks misspelt: {shown}",
        label,
        f"rename it in the file, or write in the YAML: data: {{path: FILE, columns: {{{mapping}}}}}",
    )


def unknown_columns_error(label: str, columns: Sequence[str], sample: Sequence[Mapping[str, Any]]) -> DataError:
    """No row is understood: the columns found, and the YAML to write for them."""
    texts = [c for c in columns if any(isinstance(row.get(c), str) for row in sample)] or list(columns)
    question, answer = texts[:2] if len(texts) > 1 else ("QUESTION", "ANSWER")
    return DataError(
        f"{label} is not understood: its columns are {', '.join(columns) or 'none'}",
        label,
        f"say which column is what, in the YAML: data: {{path: FILE, columns: {{prompt: {question}, answer: {answer}}}}} "
        f"(the names: {', '.join(NAMES)})",
    )
