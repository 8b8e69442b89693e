"""The ledger: what happened to each row of the data. It adds up, always: rows_in == train + validation + dropped."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from finery.errors import DataError, RowError

SHOWN = 20  # problems in an error or on the terminal; JSON has all


@dataclass(frozen=True)
class Problem:
    """A row that was left out, or part of it."""

    origin: str
    reason: str  # what the ledger counts it under
    what: str
    way_out: str = ""

    def __str__(self) -> str:
        return f"{self.origin}: {self.what}"


@dataclass
class SourceLedger:
    """One file of the data."""

    path: str
    format: str
    bytes: int
    sha256: str
    weight: float
    rows_in: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    used: list[str] = field(default_factory=list)  # columns
    unused: list[str] = field(default_factory=list)


@dataclass
class Ledger:
    """Counts over all sources. A split row counts once; `seen` is what the optimizer met."""

    unit: str = "rows"  # what a row is: `documents` for raw text
    sources: list[SourceLedger] = field(default_factory=list)
    rows_in: int = 0
    train: int = 0
    validation: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    truncated: list[Problem] = field(default_factory=list)
    split: list[Problem] = field(default_factory=list)
    duplicates: int = 0
    blocks: int | None = None  # for raw text: what batch_size counts
    lengths: dict[str, int] = field(default_factory=dict)  # tokens: min median p95 max total trained
    seen: int | None = None

    def drop(self, origin: str, error: RowError) -> None:
        """Count a row that is left out."""
        self.dropped[error.reason] += 1
        self.problems.append(Problem(origin, error.reason, error.what, error.way_out))

    def check(self) -> None:
        assert self.rows_in == self.train + self.validation + sum(self.dropped.values()), "the ledger does not add up"

    def refusal(self) -> DataError:
        """The error that lists the rows which can't be used, when none may be dropped."""
        shown = [str(problem) for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            shown.append(f"... and {len(self.problems) - SHOWN} more (`finery check ... on_bad_row=drop --json` lists all)")
        ways = list(dict.fromkeys(problem.way_out for problem in self.problems if problem.way_out))[:3]
        count = f"{len(self.problems)} of {self.rows_in} {self.unit} can't be used"
        return DataError(
            f"{count}:\n" + "\n".join(f"  {line}" for line in shown),
            way_out="; ".join([*ways, "or leave these out with on_bad_row=drop"]),
        )

    def to_json(self) -> dict[str, Any]:
        """The whole, for ledger.json and `--json`."""
        self.check()
        record = asdict(self)
        record["dropped"] = dict(self.dropped)
        record["notes"] = dict(self.notes)
        for source, kept in zip(record["sources"], self.sources, strict=True):
            source["formats"] = dict(kept.formats)
        return record

    def lines(self) -> list[str]:
        """The same for people."""
        self.check()
        found = []
        for source in self.sources:
            weight = "" if source.weight == 1 else f", weight {source.weight:g}"
            unused = f"; columns not used: {', '.join(source.unused)}" if source.unused else ""
            found.append(f"{source.path}: {source.rows_in} {self.unit}, {source.format}{weight}{unused}")
        dropped = sum(self.dropped.values())
        found.append(f"{self.unit} in {self.rows_in} = train {self.train} + validation {self.validation} + dropped {dropped}")
        found += [f"  dropped {count}: {reason}" for reason, count in self.dropped.most_common()]
        found += [f"    {problem}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            found.append(f"    ... and {len(self.problems) - SHOWN} more in ledger.json")
        if self.truncated:
            found.append(
                f"  truncated to whole turns: {len(self.truncated)} ({', '.join(p.origin for p in self.truncated[:5])} ...)"
            )
        if self.split:
            found.append(f"  split between turns: {len(self.split)} ({', '.join(p.origin for p in self.split[:5])} ...)")
        if self.duplicates:
            found.append(f"  {self.duplicates} rows repeat an earlier one (kept)")
        found += [f"  note: {text} ({count} {self.unit})" for text, count in self.notes.items()]
        if self.blocks is not None:
            found.append(f"{self.blocks} blocks of at most `context` tokens; batch_size counts blocks")
        if self.lengths:
            of = self.lengths
            share = of["trained"] / max(1, of["total"])
            found.append(
                f"tokens per row: median {of['median']}, 95 % up to {of['p95']}, longest {of['max']}; "
                f"{of['total']} in all, {share:.0%} of them learned"
            )
        return found
