"""From settings to admitted rows: read, recognise, render, fit, hold out. What becomes of each row goes into the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.config.schema import Config, Source
from finery.data.blocks import Document, DocumentEncoder, to_blocks
from finery.data.columns import (
    MEDIA,
    RIGHT_NAME,
    Columns,
    check_mapped_columns,
    columns_of,
    misspelt,
    misspelt_error,
    unknown_columns_error,
)
from finery.data.fit import Fitter
from finery.data.formats import FITS, READ, recognise, to_example
from finery.data.ledger import TOO_LONG, BadRows, Ledger, Problem, SourceEntry
from finery.data.pack import shared_tokens
from finery.data.sources import DataFile, RawRow, files_of, read_file, sha256
from finery.data.split import content_key, held_out, how_many
from finery.data.values import kind_of, printable
from finery.errors import DataError, RowError
from finery.types import Example, Row

if TYPE_CHECKING:
    from finery.data.render import Renderer

Progress = Callable[[int, int | None], None]  # (rows read so far, rows in all where that is known)
LOOKED_AT = 20  # rows of a file that tell what it is
HELD_OUT = ("test", "valid", "dev", "eval")  # how files begin that data sets mean to be held out
PROGRESS_ROWS = 200  # between two reports
OTHER_OBJECTIVE = {
    "preference": "chosen and rejected answers are pairs, for `objective: dpo`; to learn the chosen ones alone with sft, "
    "keep only those in the file, as `output`",
    "ranking": "lists of ranked answers are for `objective: dpo`; sft wants one answer for each question",
    "kto": "answers with a label are good and bad ones, for `objective: kto`; for sft keep the good ones without their label",
    "raw text": "raw text is for `objective: pt`; sft wants questions with answers",
    "openai": "conversations are for `objective: sft`; pt wants a column `text`",
}


@dataclass
class Prepared:
    """The rows of a run: `source_of_row[i]` is the source of train row i, `weights[s]` how often rows of source s are used.

    Without a tokenizer there are no rows, only the ledger. For raw text a row is a block, and `renderer` is None.
    """

    train: list[Row]
    validation: list[Row]
    ledger: Ledger
    renderer: Renderer | None
    source_of_row: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Admitted:
    """A row that can be used: its source, a hash of what it says, and what training needs of it."""

    source: int
    key: bytes
    row: Row | None = None
    document: Document | None = None


def prepare(
    config: Config,
    tokenizer: Any,
    stop_ids: list[int],
    *,
    renderer: Renderer | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """All rows of a run, checked. Without a tokenizer only the formats are looked at: no masks, no lengths.

    DataError lists every row that can't be used, unless `on_bad_row` and `on_too_long` leave such rows out, counted.
    """
    raw_text = config.objective.type == "pt"
    if tokenizer is not None and not raw_text:
        renderer = renderer or make_renderer(config, tokenizer, stop_ids)
    sources = sources_of(config)
    own_file = config.validation if isinstance(config.validation, str) else None
    reading = Reading(config, tokenizer, renderer, progress)
    found = reading.read(sources, "train")
    held = reading.read([Source(path=own_file, weight=1.0)], "validation") if own_file else []
    ledger = reading.ledger
    stop_on_bad_rows(config, ledger)
    for rows, use in ((found, "train"), (held, "validation") if own_file else (found, "train")):
        if not rows:
            raise no_rows(ledger, use)
    keys = [admitted.key for admitted in found]
    ledger.duplicates = len(keys) - len(set(keys))
    share = 0.0 if isinstance(config.validation, str) else float(config.validation or 0)
    last_blocks = raw_text and len(found) == 1 and share > 0
    chosen = held_out(keys, share, ledger.unit) if share > 0 and not last_blocks else set()
    if not own_file:
        held = [found[i] for i in sorted(chosen)]
    elif known := len({admitted.key for admitted in held} & set(keys)):
        ledger.notes.append(f"{known:,} held-out {ledger.unit} are in the training data too: their loss is no test")
    train = [admitted for i, admitted in enumerate(found) if i not in chosen]
    ledger.trained, ledger.validation = len(train), len(held)
    made = Prepared([], [], ledger, renderer, [], [source.weight for source in sources])
    if tokenizer is not None and raw_text:
        fill_with_blocks(made, train, held, config, share if last_blocks else 0.0)
    elif tokenizer is not None:
        made.train = numbered([admitted.row for admitted in train if admitted.row])
        made.validation = numbered([admitted.row for admitted in held if admitted.row])
        made.source_of_row = [admitted.source for admitted in train]
    ledger.measure(made.train)
    ledger.check()
    return made


def sources_of(config: Config) -> list[Source]:
    """The sources of the settings, whatever short form they were given in."""
    given = config.data if isinstance(config.data, list) else [config.data]
    return [Source(path=source, weight=1.0) if isinstance(source, str) else source for source in given]


def make_renderer(config: Config, tokenizer: Any, stop_ids: list[int]) -> Renderer:
    from finery.data.render import Renderer

    last_turn_only = getattr(config.objective, "last_turn_only", False)
    return Renderer(tokenizer, stop_ids, config.template, config.reasoning, last_turn_only)


def fill_with_blocks(made: Prepared, train: list[Admitted], held: list[Admitted], config: Config, last_share: float) -> None:
    """Documents become blocks, source by source. Of a single document the last blocks are held out."""
    assert config.context is not None
    for source in range(len(made.weights)):
        blocks = to_blocks([one.document for one in train if one.document and one.source == source], config.context)
        made.train += blocks
        made.source_of_row += [source] * len(blocks)
    made.validation = to_blocks([one.document for one in held if one.document], config.context)
    if last_share:
        count = how_many(last_share, len(made.train), "blocks")
        made.train, made.validation = made.train[:-count], made.train[-count:]
        made.source_of_row = made.source_of_row[:-count]
        made.ledger.notes.append(f"there is one document: its last {count:,} blocks are held out, the rest is trained")
    numbered(made.train)
    numbered(made.validation)
    made.ledger.blocks = {"train": len(made.train), "validation": len(made.validation)}


def numbered(rows: list[Row]) -> list[Row]:
    for number, row in enumerate(rows):
        for sequence in row.sequences:
            sequence.row = number
    return rows


def stop_on_bad_rows(config: Config, ledger: Ledger) -> None:
    """The error that lists all rows that may not be left out."""
    policies = {True: config.on_too_long, False: config.on_bad_row}
    told = [problem for problem in ledger.problems if policies[problem.reason == TOO_LONG] == "error"]
    ways_out = {
        "leave bad rows out with on_bad_row=drop": any(problem.reason != TOO_LONG for problem in told),
        "for long rows: a larger context, or on_too_long=drop, truncate or split": any(p.reason == TOO_LONG for p in told),
    }
    if told:
        raise BadRows(ledger, told, [way_out for way_out, helps in ways_out.items() if helps])


def no_rows(ledger: Ledger, use: str) -> DataError:
    """Nothing is left to train on, or to hold out."""
    sources = [source for source in ledger.sources if source.use == use]
    if any(source.rows for source in sources):
        return BadRows(ledger, ledger.problems, [])
    names = ", ".join(source.label for source in sources)
    return DataError(f"{names}: 0 {ledger.unit}, nothing to {'train on' if use == 'train' else 'hold out'}", names)


class Reading:
    """Reads sources row by row into the ledger; keeps what training needs of each row."""

    def __init__(self, config: Config, tokenizer: Any, renderer: Renderer | None, progress: Progress | None) -> None:
        self.objective = config.objective.type
        self.progress = progress
        self.ledger = Ledger(unit="documents" if self.objective == "pt" else "rows")
        self.with_model = tokenizer is not None
        self.policy = config.on_too_long
        self.documents = DocumentEncoder(tokenizer) if self.with_model and self.objective == "pt" else None
        self.fitter = None
        if renderer is not None:
            assert config.context is not None
            last_turn_only = getattr(config.objective, "last_turn_only", False)
            self.fitter = Fitter(renderer, tokenizer, config.context, config.on_too_long, last_turn_only)

    def read(self, sources: list[Source], use: str) -> list[Admitted]:
        """Every row of the sources that can be used, in order."""
        files = []
        for number, source in enumerate(sources):
            skipped: list[str] = []
            found = files_of(Path(source.path), skipped)
            files += [(number, source, file) for file in found]
            if skipped:
                self.ledger.notes.append(f"{source.path}: not read: {', '.join(skipped[:10])}{' ...' if skipped[10:] else ''}")
            held = [file.label for file in found if file.path.stem.lower().startswith(HELD_OUT)]
            if use == "train" and held and len(found) > len(held):
                self.ledger.notes.append(f"{', '.join(held)}: trained on like the others; to hold it out, use `validation`")
        labels = Counter([*(file.label for _, _, file in files), *(entry.label for entry in self.ledger.sources)])
        for _, _, file in files:
            if labels[file.label] > 1:
                file.label = str(file.path)
        return [admitted for number, source, file in files for admitted in self.read_one(file, number, source, use)]

    def read_one(self, file: DataFile, number: int, source: Source, use: str) -> Iterator[Admitted]:
        """The rows of one file. DataError where the file as a whole can't be understood, or is for another objective."""
        rows = read_file(file)
        first = list(islice(rows, LOOKED_AT))
        self.look([row.value for row in first if row.problem is None], file, source)
        entry = SourceEntry(
            str(file.path),
            file.label,
            use,
            source.weight,
            file.path.stat().st_size,
            sha256(file.path),
            documents=file.documents,
        )
        self.ledger.sources.append(entry)
        used: set[str] = set()
        seen: dict[str, None] = {}
        for raw in chain(first, rows):
            entry.rows += 1
            self.ledger.rows_in += 1
            seen.update(dict.fromkeys(raw.value))
            try:
                yield self.admit(raw, number, source, entry, used)
            except RowError as error:
                self.ledger.drop(raw.origin, error)
            except DataError as error:
                raise DataError(error.what, error.where or raw.origin, error.way_out) from None
            if self.progress is not None and self.ledger.rows_in % PROGRESS_ROWS == 0:
                self.progress(self.ledger.rows_in, None)
        if seen:
            check_mapped_columns(source.columns, list(seen), file.label)  # a column may begin late
        known = {right for form in entry.formats for right in READ[form]}
        entry.columns_used = [printable(column) for column in seen if column in used]
        unused = [column for column in seen if column not in used and RIGHT_NAME.get(column) not in known]
        entry.columns_unused = [printable(column) for column in unused if column not in MEDIA]
        for form in entry.formats:
            if form not in FITS[self.objective] and not self.with_model:
                self.ledger.notes.append(f"{file.label}: {cannot_learn(self.objective, form)}; {other_objective(form)}")

    def look(self, sample: list[dict[str, Any]], file: DataFile, source: Source) -> None:
        """Whether a file can be understood and fits the objective, by its first rows."""
        if not sample:
            return
        columns = list(dict.fromkeys(printable(column) for row in sample for column in row))
        needed = {
            right: column for right, column in source.columns.items() if right in ("prompt", "answer", "messages", "text")
        }
        check_mapped_columns(needed, columns, file.label)
        try:
            forms = [recognise(row, columns_of(row, source.columns), self.objective) for row in sample]
        except DataError as error:
            raise DataError(error.what, file.label, error.way_out) from None
        if not source.columns:
            rights = {right for form in forms if form for right in READ[form]} or {"prompt", "answer", "messages", "text"}
            if wrong := misspelt(columns, rights):
                raise misspelt_error(file.label, wrong)
        if not any(forms):
            raise unknown_columns_error(file.label, columns, sample)
        if self.with_model and not any(form in FITS[self.objective] for form in forms if form):
            form = next(form for form in forms if form)
            raise DataError(f"{file.label}: {cannot_learn(self.objective, form)}", str(file.path), other_objective(form))

    def admit(self, raw: RawRow, number: int, source: Source, entry: SourceEntry, used: set[str]) -> Admitted:
        """One row, ready for training. RowError where it can't be used."""
        if raw.problem is not None:
            raise raw.problem
        columns: Columns = columns_of(raw.value, source.columns)
        form = recognise(raw.value, columns, self.objective)
        if form is None:
            there = ", ".join(printable(column) for column in raw.value) or "none"
            raise RowError("columns not known", f"nothing is known of its columns: {there}")
        entry.formats[form] += 1
        used.update(columns[right] for right in READ[form] if right in columns)
        if form not in FITS[self.objective] and self.with_model:
            what = cannot_learn(self.objective, form)
            column = columns.get("chosen" if form == "preference" else "answer", "")
            found = f"`{column}` is {kind_of(raw.value[column])}: " if column else ""
            raise RowError(what, found + what, way_out=other_objective(form))
        example = to_example(raw.value, form, columns, entry.notes, source=str(entry.path), origin=raw.origin)
        key = content_key(example)
        if self.documents is not None:
            return Admitted(number, key, document=self.documents.encode(example))
        return Admitted(number, key, self.fit(example) if self.fitter else None)

    def fit(self, example: Example) -> Row:
        """Render a row and make it fit; what a cut left out is listed."""
        assert self.fitter is not None
        fitted = self.fitter.fit(example)
        if fitted.left_out:
            listed = self.ledger.truncated if self.policy == "truncate" else self.ledger.split
            listed.append(Problem(example.origin, TOO_LONG, fitted.left_out))
        return Row(example, fitted.sequences, shared_tokens(fitted.sequences))


NAMES_IN_ERRORS = {
    "preference": "preference pairs (chosen and rejected)",
    "openai": "conversations",
    "sharegpt": "conversations",
    "alpaca": "questions with answers",
    "prompt and answer": "questions with answers",
    "ranking": "ranked answers",
    "kto": "answers with a label (kto)",
}


def cannot_learn(objective: str, form: str) -> str:
    return f"{objective} can't learn from {NAMES_IN_ERRORS.get(form, form)}"


def other_objective(form: str) -> str:
    return OTHER_OBJECTIVE.get(form, OTHER_OBJECTIVE["openai"])
