"""Which rows are held out: decided by their content, so shuffling a file changes nothing and equal rows stay on one side."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict

from finery.errors import ConfigError
from finery.types import Example


def content_key(example: Example) -> str:
    """A hash of what a row says, whatever file and line it stands in."""
    said = asdict(example)
    for name in ("source", "origin"):
        said.pop(name)
    text = json.dumps(said, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def held_out(keys: list[str], wanted: float | int, unit: str) -> set[int]:
    """Indices of the rows with the lowest hashes: a share of all below 1, else a number. Groups of equal rows are taken whole.

    ConfigError where nothing would be left to train on.
    """
    count = round(wanted * len(keys)) if wanted < 1 else int(wanted)
    if wanted > 0:
        count = max(1, count)
    if count >= len(keys) and wanted > 0:
        raise ConfigError(
            f"validation takes {count} of {len(keys)} {unit}: nothing is left to train on",
            "validation",
            "hold out fewer, for instance validation=0.1",
        )
    groups: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        groups[key].append(index)
    chosen: set[int] = set()
    for key in sorted(groups):
        if len(chosen) + len(groups[key]) <= count:
            chosen.update(groups[key])
        if len(chosen) == count:
            break
    return chosen
