"""The ledger: what happened to each row of the data. It adds up, always: rows_in == trained + validation + dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from finery.data.values import printable
from finery.errors import DataError, RowError
from finery.types import Row

SHOWN = 20  # problems in an error; JSON has all
SHOWN_IN_LEDGER = 8
WIDTH = 240  # letters of a problem that are shown
TOO_LONG = "longer than context"


@dataclass(frozen=True)
class Problem:
    """A row that was left out, or from which something was."""

    origin: str
    reason: str  # what the ledger counts it under
    what: str
    way_out: str = ""

    def __str__(self) -> str:
        text = f"{self.origin}: {self.what}"
        return text if len(text) <= WIDTH else f"{text[: WIDTH - 4]} ..."


@dataclass
class SourceEntry:
    """One file of the data. `weight`: how often a row is used in an epoch; `use`: train or validation."""

    path: str
    label: str  # its name in messages
    use: str
    weight: float
    bytes: int
    sha256: str
    rows: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    documents: str = ""  # how a text file was taken apart
    columns_used: list[str] = field(default_factory=list)
    columns_unused: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def format(self) -> str:
        """Names of the formats found, with counts where there are several."""
        several = len(self.formats) > 1
        return ", ".join(f"{name} ({count:,})" if several else name for name, count in self.formats.most_common()) or "no rows"


@dataclass
class Ledger:
    """Counts over all sources. A truncated or split row counts once; `seen` is how many rows the optimizer met."""

    unit: str = "rows"  # what a row is: `documents` for raw text
    sources: list[SourceEntry] = field(default_factory=list)
    rows_in: int = 0
    trained: int = 0
    validation: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    truncated: list[Problem] = field(default_factory=list)
    split: list[Problem] = field(default_factory=list)
    duplicates: int = 0  # rows that say what an earlier one says; they are kept
    notes: list[str] = field(default_factory=list)
    blocks: dict[str, int] = field(default_factory=dict)  # raw text: train, validation; batch_size counts these
    tokens: dict[str, int | float] = field(default_factory=dict)
    seen: int | None = None

    def drop(self, origin: str, error: RowError) -> None:
        """Count a row that is left out."""
        self.dropped[printable(error.reason)] += 1
        self.problems.append(Problem(origin, printable(error.reason), printable(error.what), error.way_out))

    def check(self) -> None:
        assert self.rows_in == self.trained + self.validation + sum(self.dropped.values()), "the ledger does not add up"
        assert self.rows_in == sum(source.rows for source in self.sources), "the ledger's sources do not add up"

    def measure(self, rows: list[Row]) -> None:
        """Lengths of the rows that are trained on, in tokens: of the longest sequence of each, which `context` must hold."""
        if not rows:
            return
        longest = np.array([max(len(sequence.ids) for sequence in row.sequences) for row in rows])
        learned = sum(int(np.count_nonzero(sequence.loss)) for row in rows for sequence in row.sequences)
        total = sum(row.tokens for row in rows)
        self.tokens = {
            "min": int(longest.min()),
            "median": int(np.median(longest)),
            "p95": int(np.percentile(longest, 95)),
            "max": int(longest.max()),
            "total": total,
            "trained": learned,
            "trained_share": round(learned / total, 4),
        }

    def to_json(self) -> dict[str, Any]:
        """The whole, for ledger.json and `--json`."""
        self.check()
        record = asdict(self)
        record["dropped"] = dict(self.dropped)
        for entry, source in zip(record["sources"], self.sources, strict=True):
            entry |= {"format": source.format, "formats": dict(source.formats), "notes": dict(source.notes)}
        return record

    def lines(self) -> list[str]:
        """The same for people, problems cut after the first ones."""
        found = [line for source in self.sources for line in source_lines(source, self.unit)]
        dropped = sum(self.dropped.values())
        parts = f"{self.trained:,} trained + {self.validation:,} validation + {dropped:,} dropped"
        found.append(f"{self.unit}: {self.rows_in:,} in = {parts}")
        found += [f"  dropped {count:,}: {reason}" for reason, count in self.dropped.most_common()]
        found += [f"    {line}" for line in shown(self.problems, SHOWN_IN_LEDGER)]
        for name, cut in (("truncated to whole turns", self.truncated), ("split between turns", self.split)):
            if cut:
                found += [f"  {name}: {len(cut):,}", *(f"    {line}" for line in shown(cut, SHOWN_IN_LEDGER))]
        if self.duplicates:
            found.append(
                f"  {self.duplicates:,} repeat an earlier one (kept: how often a row stands in the data is its weight)"
            )
        found += [f"  note: {note}" for note in self.notes]
        if self.blocks:
            train, validation = self.blocks["train"], self.blocks["validation"]
            found.append(f"blocks: {train:,} to train on, {validation:,} held out; batch_size counts blocks")
        if self.tokens:
            of = self.tokens
            found.append(
                f"tokens: {of['min']:,} to {of['max']:,} a {'block' if self.blocks else 'row'}, median {of['median']:,}, "
                f"95 % up to {of['p95']:,}; {of['total']:,} in all, {of['trained_share']:.0%} of them learned"
            )
        return found


class BadRows(DataError):
    """Rows that can't be used where they may not be left out. `ledger` lists all; the others count as trained there."""

    def __init__(self, ledger: Ledger, problems: list[Problem], ways_out: Iterable[str]) -> None:
        ledger.trained = ledger.rows_in - sum(ledger.dropped.values())
        all_of_them = ", so 0 remain" if len(problems) == ledger.rows_in else ""
        count = f"{len(problems):,} of {ledger.rows_in:,} {ledger.unit} can't be used{all_of_them}:"
        own = dict.fromkeys(problem.way_out for problem in problems if problem.way_out)
        super().__init__(
            "\n".join([count, *(f"  {line}" for line in shown(problems))]), way_out="; or ".join([*own, *ways_out])
        )
        self.ledger = ledger


def shown(problems: list[Problem], most: int = SHOWN) -> list[str]:
    """The first ones, and how many more there are."""
    lines = [str(problem) for problem in problems[:most]]
    more = len(problems) - most
    return [*lines, f"... and {more:,} more (`finery check ... --json` lists all)"] if more > 0 else lines


def source_lines(source: SourceEntry, unit: str) -> list[str]:
    about = [f"{source.rows:,} {unit}", source.format]
    if source.documents:
        about.append(source.documents)
    if source.columns_used and source.format != "raw text":
        about.append(f"columns {', '.join(source.columns_used)}")
    if source.weight != 1:
        about.append(f"weight {source.weight:g}")
    use = "held out from a file of its own: " if source.use == "validation" else ""
    found = [f"{use}{source.path}: {'; '.join(about)}"]
    if source.columns_unused:
        found.append(f"  columns not used: {', '.join(source.columns_unused)}")
    return [*found, *(f"  note: {note} ({count:,} times)" for note, count in source.notes.items())]
