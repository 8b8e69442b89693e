"""From settings to admitted rows: read, recognise, hold out, render, fit; what becomes of each row goes into the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finery.config.schema import Config, Source
from finery.data.blocks import blocks_of
from finery.data.fit import LongestToken, TooLong, fit
from finery.data.formats import MAPPABLE, mapping_hint, recognise, rename, to_example
from finery.data.ledger import Ledger, Problem, SourceLedger
from finery.data.pack import shared_tokens
from finery.data.sources import RawRow, files_of, read_file, sha256
from finery.data.split import content_key, held_out
from finery.errors import ConfigError, DataError, RowError
from finery.types import Example, Row

if TYPE_CHECKING:
    from finery.data.render import Renderer

FORMS = {
    "sft": {"answer": "prompt and answer", "messages": "messages"},
    "pt": {"text": "raw text"},
}
NAMES = {"answer": "prompt and answer", "preference": "chosen and rejected", "ranking": "ranked answers", "text": "raw text"}
BETTER_OBJECTIVE = {
    "preference": "preference rows (chosen and rejected) are for objective dpo; sft learns one answer",
    "ranking": "a list of ranked answers is for objective dpo; sft learns one answer",
    "text": "raw text without questions is learned with objective=pt",
    "answer": "questions with answers are learned with objective=sft",
    "messages": "conversations are learned with objective=sft",
}


@dataclass
class Prepared:
    """The rows of a run. `source_of_row[i]` is the source of train row i, `weights[s]` how often rows of source s are used."""

    train: list[Row]
    validation: list[Row]
    ledger: Ledger
    renderer: Renderer | None
    source_of_row: list[int]
    weights: list[float]


@dataclass
class Candidate:
    """A row on its way."""

    example: Example
    source: int
    row: Row | None = None


def prepare(
    config: Config,
    tokenizer: Any,
    stop_ids: list[int],
    *,
    renderer: Renderer | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Prepared:
    """All rows, checked. Without a tokenizer only the formats are looked at, no lengths and no masks.

    DataError lists the rows that can't be used, unless `on_bad_row: drop` and `on_too_long` let them go, counted.
    """
    raw_text = config.objective.type == "pt"
    ledger = Ledger(unit="documents" if raw_text else "rows")
    sources = sources_of(config)
    found = [c for number, source in enumerate(sources) for c in read_source(source, number, config, ledger, progress)]
    own_file = isinstance(config.validation, str)
    held = read_source(Source(path=str(config.validation)), len(sources), config, ledger, progress) if own_file else []
    if tokenizer is not None and not raw_text:
        renderer = renderer or make_renderer(config, tokenizer, stop_ids)
        found, held = (render_all(rows, config, tokenizer, renderer, ledger, progress) for rows in (found, held))
    stop_on_bad_rows(config, ledger)
    if not found:
        names = ", ".join(source.path for source in ledger.sources)
        raise DataError(
            f"0 {ledger.unit} can be trained",
            names or str(config.data),
            "see the ledger: every row was left out, or none is there",
        )
    keys = [content_key(candidate.example) for candidate in found]
    ledger.duplicates = len(keys) - len(set(keys))
    chosen: set[int] = set()
    if config.validation is not None and not own_file and not (raw_text and len(found) == 1):
        chosen = held_out(keys, config.validation, ledger.unit)  # type: ignore[arg-type]
    train = [c for i, c in enumerate(found) if i not in chosen]
    held = held or [c for i, c in enumerate(found) if i in chosen]
    ledger.train, ledger.validation = len(train), len(held)
    if tokenizer is None:
        ledger.check()
        return Prepared([], [], ledger, None, [], [source.weight for source in sources])
    if raw_text:
        return finish_text(config, tokenizer, train, held, sources, ledger)
    return finish(train, held, sources, ledger, renderer)


def finish(
    train: list[Candidate], held: list[Candidate], sources: list[Source], ledger: Ledger, renderer: Renderer | None
) -> Prepared:
    """Number the rows and sum up their lengths."""
    rows = numbered([c.row for c in train if c.row is not None])
    ledger.lengths = lengths_of(rows)
    ledger.check()
    source_of_row = [c.source for c in train]
    return Prepared(
        rows, numbered([c.row for c in held if c.row]), ledger, renderer, source_of_row, [s.weight for s in sources]
    )


def finish_text(
    config: Config, tokenizer: Any, train: list[Candidate], held: list[Candidate], sources: list[Source], ledger: Ledger
) -> Prepared:
    """Raw text becomes blocks, source by source; of a single document the last blocks are held out."""
    assert config.context is not None
    rows: list[Row] = []
    source_of_row: list[int] = []
    for number in range(len(sources)):
        made = blocks_of([c.example for c in train if c.source == number], tokenizer, config.context)
        rows += made
        source_of_row += [number] * len(made)
    held_rows = blocks_of([c.example for c in held], tokenizer, config.context)
    if config.validation and not held:
        share = float(config.validation)  # type: ignore[arg-type]
        count = max(1, round(share * len(rows)) if share < 1 else int(share))
        if count >= len(rows):
            raise ConfigError(f"validation takes {count} of {len(rows)} blocks: nothing is left to train on", "validation")
        rows, held_rows, source_of_row = rows[:-count], rows[-count:], source_of_row[:-count]
        ledger.notes[f"one document: its last {count} blocks are held out"] += 1
    ledger.blocks = len(rows)
    ledger.lengths = lengths_of(rows)
    ledger.check()
    return Prepared(numbered(rows), numbered(held_rows), ledger, None, source_of_row, [s.weight for s in sources])


# --- reading -----------------------------------------------------------------------------------------------------------------


def sources_of(config: Config) -> list[Source]:
    """The settings' sources, one for each."""
    given = config.data if isinstance(config.data, list) else [config.data]
    return [Source(path=source) if isinstance(source, str) else source for source in given]


def read_source(
    source: Source, number: int, config: Config, ledger: Ledger, progress: Callable[[int, int | None], None] | None
) -> list[Candidate]:
    """The candidates of one source; rows that are none go into the ledger."""
    if unknown := [name for name in source.columns if name not in MAPPABLE]:
        raise ConfigError(f"columns: {unknown[0]} is no name here", "data", f"the right names: {', '.join(MAPPABLE)}")
    found = []
    for file in files_of(Path(source.path)):
        path = file.path
        raws = list(read_file(file))
        if source.columns:
            absent = [c for c in source.columns.values() if not any(c in raw.value for raw in raws)]
            if absent and raws:
                there = ", ".join(dict.fromkeys(k for raw in raws[:100] for k in raw.value))
                raise DataError(f"no row has the column {absent[0]}", str(path), f"columns that are there: {there}")
            raws = [RawRow(rename(raw.value, source.columns), raw.origin, raw.problem) for raw in raws]
        entry = SourceLedger(str(path), "no rows", path.stat().st_size, sha256(path), source.weight, len(raws))
        ledger.sources.append(entry)
        ledger.rows_in += len(raws)
        found += admit(raws, path, number, config, ledger, entry)
        if progress is not None:
            progress(ledger.rows_in, None)
    return found


def admit(raws: list[RawRow], path: Path, number: int, config: Config, ledger: Ledger, entry: SourceLedger) -> list[Candidate]:
    """Recognise the rows of one file and make Examples of them."""
    forms = [recognise(raw.value) if raw.problem is None else None for raw in raws]
    readable = [raw for raw in raws if raw.problem is None]
    entry.formats = Counter(form for form in forms if form)
    if readable and not entry.formats:
        columns = list(dict.fromkeys(k for raw in readable[:100] for k in raw.value))
        what = f"no format is recognised in {path.name}: its columns are {', '.join(columns) or 'none'}"
        raise DataError(what, str(path), mapping_hint(columns))
    entry.format = ", ".join(
        f"{NAMES.get(f, f)}{f' ({n})' if len(entry.formats) > 1 else ''}" for f, n in entry.formats.items()
    )
    fitting = FORMS[config.objective.type]
    wrong = [form for form in entry.formats if form not in fitting]
    if wrong and len(wrong) == len(entry.formats):
        what = f"{path.name} holds {NAMES.get(wrong[0], wrong[0])}, and the objective is {config.objective.type}"
        raise DataError(what, str(path), BETTER_OBJECTIVE[wrong[0]])
    note_columns(readable, entry)
    found = []
    for raw, form in zip(raws, forms, strict=True):
        try:
            if raw.problem is None and form is None:
                raise RowError("columns not known", f"this row has the columns {', '.join(raw.value) or 'none'}")
            if raw.problem is None and form in wrong:
                raise RowError(f"{NAMES.get(form, form)} in {config.objective.type}", BETTER_OBJECTIVE[form])  # type: ignore[index,arg-type]
            found.append(Candidate(to_example(raw, form or "", str(path)), number))
        except RowError as error:
            ledger.drop(raw.origin, error)
    return found


def note_columns(raws: list[RawRow], entry: SourceLedger) -> None:
    """Which columns were read and which were not."""
    from finery.data.formats import KNOWN

    columns = dict.fromkeys(k for raw in raws for k in raw.value)
    entry.used = [name for name in columns if name in KNOWN]
    entry.unused = [name for name in columns if name not in KNOWN]


# --- rendering ---------------------------------------------------------------------------------------------------------------


def make_renderer(config: Config, tokenizer: Any, stop_ids: list[int]) -> Renderer:
    from finery.data.render import Renderer

    last_only = getattr(config.objective, "last_turn_only", False)
    return Renderer(tokenizer, stop_ids, template=config.template, reasoning=config.reasoning, last_turn_only=last_only)


def render_all(
    candidates: list[Candidate],
    config: Config,
    tokenizer: Any,
    renderer: Renderer,
    ledger: Ledger,
    progress: Callable[[int, int | None], None] | None,
) -> list[Candidate]:
    """Render each row and fit it into the context; what can't be is in the ledger."""
    assert config.context is not None
    longest = LongestToken(tokenizer)
    kept = []
    for done, candidate in enumerate(candidates, 1):
        example = candidate.example
        try:
            fitted = fit(example, renderer, longest, config.context, config.on_too_long)
            tokens = shared_tokens(fitted.sequences)
            candidate.row = Row(example, fitted.sequences, tokens)
            kept.append(candidate)
            if fitted.cut:
                problem = Problem(example.origin, fitted.cut, fitted.what)
                (ledger.truncated if config.on_too_long == "truncate" else ledger.split).append(problem)
        except TooLong as error:
            ledger.drop(example.origin, error)
        except RowError as error:
            ledger.drop(example.origin, error)
        if progress is not None and done % 256 == 0:
            progress(done, len(candidates))
    return kept


def stop_on_bad_rows(config: Config, ledger: Ledger) -> None:
    """The error that lists all bad rows at once, where they may not be left out."""
    too_long = ledger.dropped.get(TooLong.REASON, 0)
    bad = sum(ledger.dropped.values()) - too_long
    if (bad and config.on_bad_row == "error") or (too_long and config.on_too_long == "error"):
        error = ledger.refusal()
        if not bad:
            error.way_out = "on_too_long=drop, truncate or split, or a larger context"
        elif config.on_bad_row == "drop":
            error.way_out = "on_too_long=drop, truncate or split, or a larger context; the other rows are left out already"
        raise error


def numbered(rows: list[Row]) -> list[Row]:
    for number, row in enumerate(rows):
        for sequence in row.sequences:
            sequence.row = number
    return rows


def lengths_of(rows: list[Row]) -> dict[str, int]:
    """Tokens per row, and how many of all are learned."""
    if not rows:
        return {}
    tokens = np.array([row.tokens for row in rows])
    return {
        "min": int(tokens.min()),
        "median": int(np.median(tokens)),
        "p95": int(np.percentile(tokens, 95)),
        "max": int(tokens.max()),
        "total": int(tokens.sum()),
        "trained": int(sum((sequence.loss > 0).sum() for row in rows for sequence in row.sequences)),
    }
