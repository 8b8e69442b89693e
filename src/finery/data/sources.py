"""From files to raw rows, each with the place that it came from. Files are streamed where their kind allows it.

json (an array, an object, or JSON lines under the wrong name), jsonl, csv, tsv, parquet, txt, md, or a folder of them.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from finery.data.encoding import lines_of, refuse_binary, text_of
from finery.data.values import DECODER, kind_of, loads
from finery.errors import DataError, RowError

ENDINGS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "txt",
    ".md": "md",
}
NO_DATA = ("readme", "license", "licence", "dataset_info")  # names beside the data of a folder
LONG_LINE = 500  # characters: from here on lines of a .txt are taken for documents, shorter ones for wrapped text
LOOKED_AT = 2000  # lines of a .txt that decide it
BATCH = 512  # rows of a Parquet file that are in memory at once


@dataclass
class RawRow:
    """One record as the file holds it. `origin` is `file:line`, or `file:row N` where a row has no line of its own.

    `problem` says why a record that stands there could not be read; its value is empty then.
    """

    value: dict[str, Any]
    origin: str
    problem: RowError | None = None


@dataclass
class DataFile:
    """A file of a source. `label` is its name in messages; `documents` says how a text file was taken apart."""

    path: Path
    kind: str
    label: str
    documents: str = ""


def files_of(path: Path, skipped: list[str] | None = None) -> list[DataFile]:
    """The data files of a source: itself, or those in the folder, sorted by name. Adds the others' names to `skipped`.

    DataError where nothing is there, with the nearest names, or nothing in it can be used.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return files_in_folder(path, skipped if skipped is not None else [])
        if not path.exists():
            raise DataError(f"there is no file or folder {path.name}", str(path), nearest(path))
    except OSError as error:
        raise cannot_read(path, error) from None
    kind = ENDINGS.get(path.suffix.lower())
    if kind is None:
        ending = path.suffix or "no ending"
        raise DataError(f"{path.name}: files with {ending} can't be read", str(path), f"use one of {', '.join(ENDINGS)}")
    return [DataFile(path, kind, printable(path.name))]


def files_in_folder(folder: Path, skipped: list[str]) -> list[DataFile]:
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts) or not path.is_file():
            continue
        kind = ENDINGS.get(path.suffix.lower())
        if kind is None or path.stem.lower().startswith(NO_DATA):
            skipped.append(printable(str(inside)))
            continue
        found.append(DataFile(path, kind, printable(str(Path(folder.name) / inside))))
    if not found:
        there = f"; it holds {', '.join(skipped[:5])}" if skipped else "; it is empty"
        raise DataError(f"no data file in the folder {folder.name}{there}", str(folder), f"use one of {', '.join(ENDINGS)}")
    return found


def nearest(path: Path) -> str:
    """A way out for a name that is not there."""
    if any(quote in path.name for quote in "“”‘’＂"):
        return "the full-width quotes are part of the name; use straight quotes around it, or none"
    parent = path.parent
    if not parent.is_dir():
        return f"the folder {parent} is not there either"
    names = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")]
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    usable = sorted(name for name in names if Path(name).suffix.lower() in ENDINGS)
    return f"data files there: {', '.join(usable[:8])}" if usable else f"there are no data files in {parent}"


def printable(name: str) -> str:
    """A file name that can be printed and written anywhere, also where the disk holds bytes that are no UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def cannot_read(path: Path, error: OSError) -> DataError:
    if isinstance(error, PermissionError):
        return DataError(f"{path.name} may not be read: no permission", str(path), f"chmod u+r {path}")
    return DataError(f"{path.name} can't be read: {error.strerror or error}", str(path))


def read_file(file: DataFile) -> Iterator[RawRow]:
    """The rows of one file, in order, broken ones with their problem; DataError where the file as a whole is wrong."""
    readers = {"csv": read_table, "tsv": read_table, "parquet": read_parquet, "txt": read_text, "md": read_text}
    try:
        if file.kind in ("json", "jsonl"):
            yield from (read_array if begins_with_bracket(file) else read_json)(file)
        else:
            yield from readers[file.kind](file)
    except OSError as error:
        raise cannot_read(file.path, error) from None


# --- JSON --------------------------------------------------------------------------------------------------------------------


def begins_with_bracket(file: DataFile) -> bool:
    with file.path.open("rb") as opened:
        return opened.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def read_json(file: DataFile) -> Iterator[RawRow]:
    """JSON lines; a `.json` that is no JSON lines is one object."""
    if file.kind == "json" and not is_json_lines(file):
        text = text_of(file.path, file.label)
        if text.strip():
            value, end = decode_at(text, len(text) - len(text.lstrip()), file)
            if text[end:].strip():
                where = f"{file.label}:{line_at(text, end)}"
                raise DataError("there is more text after the JSON object", where, "make it an array of objects")
            yield checked(value, f"{file.label}:row 1")
        return
    for number, line in lines_of(file.path, file.label):
        where = f"{file.label}:{number}"
        if isinstance(line, RowError):
            yield RawRow({}, where, line)
        elif line.strip():
            try:
                value = loads(line)
            except ValueError as error:
                yield RawRow({}, where, RowError("not valid JSON", f"not valid JSON: {what_is_wrong(line, error)}", where))
                continue
            yield checked(value, where)


def is_json_lines(file: DataFile) -> bool:
    """The first line that holds something is a whole JSON value, and not the only one."""
    whole = 0
    for _, line in lines_of(file.path, file.label):
        if isinstance(line, RowError) or not line.strip():
            continue
        if whole:
            return True
        try:
            loads(line)
        except ValueError:
            return False
        whole += 1
    return False


def read_array(file: DataFile) -> Iterator[RawRow]:
    """The elements of one array, decoded one by one: a broken one names its line."""
    text = text_of(file.path, file.label)
    place, row = skip_space(text, text.index("[") + 1), 0
    while text[place : place + 1] != "]":
        value, end = decode_at(text, place, file, row + 1)
        row += 1
        yield checked(value, f"{file.label}:row {row}")
        place = skip_space(text, end)
        if text[place : place + 1] == ",":
            place = skip_space(text, place + 1)
            if text[place : place + 1] == "]":
                raise broken_array(text, place, file, row, "a comma after the last row")
        elif text[place : place + 1] != "]":
            raise broken_array(text, place, file, row, "a comma or the closing ] is missing after the row")
    end = skip_space(text, place + 1)
    if end < len(text):
        raise broken_array(text, end, file, row, "there is more text after the array")


def skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\n\r":
        place += 1
    return place


def decode_at(text: str, place: int, file: DataFile, row: int = 1) -> tuple[Any, int]:
    try:
        return DECODER.raw_decode(text, place)
    except (ValueError, RecursionError) as error:
        at = error.pos if isinstance(error, json.JSONDecodeError) else place
        raise broken_array(text, at, file, row, what_is_wrong("", error)) from None


def broken_array(text: str, place: int, file: DataFile, row: int, what: str) -> DataError:
    where = f"{file.label}:{line_at(text, place)}"
    return DataError(f"{file.label} is not valid JSON: {what} (row {row})", where, "mend the file there")


def line_at(text: str, place: int) -> int:
    """1-based number of the line that holds a letter."""
    return text.count("\n", 0, place) + 1


def what_is_wrong(line: str, error: Exception) -> str:
    """The decoder's words in ours; no part of the record is shown."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    rest = line[error.pos : error.pos + 1]
    if error.msg.startswith("Extra data"):
        end = "a comma after the row" if rest == "," else "a second record on the line" if rest in "{[" else "more text"
        return f"{end} at column {error.colno}"
    if rest == "'" or "'" in line[:2]:
        return f"single quotes at column {error.colno}; JSON wants double ones"
    if "Unterminated" in error.msg or not rest:
        return f"the record ends in the middle (column {error.colno})"
    return f"{error.msg[0].lower()}{error.msg[1:]} at column {error.colno}"


def checked(value: Any, origin: str) -> RawRow:
    """A row is an object."""
    if isinstance(value, dict):
        return RawRow(value, origin)
    return RawRow({}, origin, RowError("not an object", f"the row is {kind_of(value)}, not an object with columns", origin))


# --- tables and texts --------------------------------------------------------------------------------------------------------


def read_table(file: DataFile) -> Iterator[RawRow]:
    """CSV or TSV with a header line; a field may hold line breaks in quotes. The origin is the row's first line."""
    separator = "\t" if file.kind == "tsv" else sniff_separator(file)
    rows = csv.reader(table_lines(file), delimiter=separator, strict=True)
    csv.field_size_limit(1 << 30)
    header: list[str] = []
    while True:
        first_line = rows.line_num + 1
        try:
            cells = next(rows, None)
        except csv.Error as error:
            raise DataError(
                f"{file.label} is no valid table: {error}", f"{file.label}:{first_line}", "mend the quotes"
            ) from None
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = header_of(cells, file)
        elif len(cells) != len(header):
            what = f"the row has {len(cells)} cells, the header has {len(header)}"
            where = f"{file.label}:{first_line}"
            yield RawRow({}, where, RowError("wrong number of cells", what, where))
        else:
            yield RawRow(dict(zip(header, cells, strict=True)), f"{file.label}:{first_line}")


def table_lines(file: DataFile) -> Iterator[str]:
    for _, line in lines_of(file.path, file.label):
        if isinstance(line, RowError):
            raise DataError(f"{file.label} is not UTF-8: {line.what}", line.where, "save it as UTF-8")
        yield line + "\n"


def sniff_separator(file: DataFile) -> str:
    """Of the header line: spreadsheets in much of Europe write semicolons."""
    header = next(iter(table_lines(file)), "")
    return max(",;\t", key=lambda sign: (header.count(sign), sign == ","))


def header_of(cells: list[str], file: DataFile) -> list[str]:
    header = [cell.strip() for cell in cells]
    if doubled := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"columns that occur twice: {', '.join(doubled)}", f"{file.label}:1", "give each column its own name")
    return header


def read_parquet(file: DataFile) -> Iterator[RawRow]:
    """Rows as objects. Keys that are null inside a column are padding of the columnar format, and left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with file.path.open("rb") as opened:
        if opened.read(4) != b"PAR1":
            refuse_binary(file.path, file.label)
            raise DataError(f"{file.label} is no Parquet file")
    try:
        row = 0
        for batch in pq.ParquetFile(file.path).iter_batches(batch_size=BATCH):
            for value in batch.to_pylist():
                row += 1
                cells = {name: without_padding(cell) for name, cell in value.items()}
                yield RawRow(cells, f"{file.label}:row {row}")
    except pa.ArrowException as error:
        raise DataError(f"{file.label} is a damaged Parquet file: {str(error)[:200]}", str(file.path)) from None


def without_padding(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_padding(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_padding(item) for item in value]
    return value


def read_text(file: DataFile) -> Iterator[RawRow]:
    """A `.md` is one document; a `.txt` is one, or one per line where its lines are long. `documents` says which."""
    if file.kind == "txt" and (typical := long_lines(file)):
        file.documents = f"one document per line (typically {typical:,} characters)"
        for number, line in lines_of(file.path, file.label):
            if isinstance(line, RowError):
                yield RawRow({}, f"{file.label}:{number}", line)
            elif line.strip():
                yield RawRow({"text": line}, f"{file.label}:{number}")
        return
    file.documents = "the whole file is one document"
    text = text_of(file.path, file.label)
    if text.strip():
        yield RawRow({"text": text}, f"{file.label}:1")


def long_lines(file: DataFile) -> int:
    """The usual length of the file's lines where they are documents, else 0. A single line is the whole file."""
    lengths = []
    for number, line in lines_of(file.path, file.label):
        if isinstance(line, str) and line.strip():
            lengths.append(len(line))
        if number >= LOOKED_AT:
            break
    typical = int(median(lengths)) if len(lengths) > 1 else 0
    return typical if typical >= LONG_LINE else 0


def sha256(path: Path) -> str:
    """Of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
