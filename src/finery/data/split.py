"""Which rows are held out: decided by what they say, so the order of a file means nothing and equal rows stay together.

All sources are looked at together; the rows with the lowest hashes are held out, so rows added later move only few others.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence

from finery.errors import DataError
from finery.types import Example, Message

WAY_OUT = "hold out less, for instance validation=0.1, or name a file: validation=FILE"


def content_key(example: Example) -> bytes:
    """A hash of what a row says, whatever file and line it stands in."""
    prompt = [said(message) for message in example.prompt]
    answers = [[said(message) for message in answer] for answer in example.answers]
    text = json.dumps([prompt, answers, example.text, example.tools, example.labels], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def said(message: Message) -> list[object]:
    calls = [[call.name, call.arguments] for call in message.tool_calls]
    return [message.role, message.content, message.reasoning, calls, message.weight]


def how_many(wanted: float, rows: int, unit: str) -> int:
    """Rows to hold out for a share below 1 or a number: at least one, and never all. DataError where that can't be."""
    count = max(1, round(wanted * rows)) if wanted < 1 else int(wanted)
    if count >= rows:
        raise DataError(
            f"validation={wanted:g} holds out {count} of {rows} {unit}: nothing is left to train on", way_out=WAY_OUT
        )
    return count


def held_out(keys: Sequence[bytes], wanted: float, unit: str) -> set[int]:
    """Indices of the rows to hold out. Equal rows go together, so a number is met as nearly as they allow without going over.

    DataError where one side would be empty.
    """
    count = how_many(wanted, len(keys), unit)
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        groups[key].append(index)
    if len(groups) == 1:
        raise DataError(f"all {len(keys)} {unit} say the same: none can be held out", way_out="leave `validation` out")
    chosen: set[int] = set()
    for key in sorted(groups):
        if len(chosen) + len(groups[key]) <= count:
            chosen.update(groups[key])
        if len(chosen) == count:
            break
    return chosen or set(groups[min(sorted(groups), key=lambda key: len(groups[key]))])
