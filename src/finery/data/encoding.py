"""Bytes to text: UTF-8 with or without a byte order mark. Anything else is named, never guessed into mojibake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finery.errors import DataError, RowError

SAMPLE = 1 << 20  # bytes that are looked at to name an encoding
BOM = b"\xef\xbb\xbf"
# How files begin that are no text, whatever their ending says.
BEGINNINGS = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip or Office file",
    b"\x1f\x8b": "a gzip file: unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd file: unpack it first",
    b"PAR1": "a Parquet file: name it .parquet",
    b"ARROW1": "an Arrow file",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"SQLite format 3": "a database",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`",
}


def lines_of(path: Path, label: str) -> Iterator[tuple[int, str | RowError]]:
    """(1-based line number, text without its line end) of each physical line, read as a stream.

    A line with damaged bytes in a file that is UTF-8 otherwise comes as a RowError. DataError where the file is not UTF-8.
    """
    refuse_binary(path, label)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith(BOM):
                line = line[len(BOM) :]
            try:
                yield number, line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield number, not_utf8(path, f"{label}:{number}", line, error.start)


def text_of(path: Path, label: str) -> str:
    """The whole text with line feeds as line ends."""
    refuse_binary(path, label)
    data = path.read_bytes().removeprefix(BOM)
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        start = data.rfind(b"\n", 0, error.start) + 1
        raise not_utf8(path, f"{label}:{number}", data[start : start + SAMPLE], error.start - start) from None


def refuse_binary(path: Path, label: str) -> None:
    """DataError where the file's first bytes are those of something else than UTF-8 text."""
    with path.open("rb") as file:
        head = file.read(4096)
    for beginning, name in BEGINNINGS.items():
        if head.startswith(beginning):
            raise DataError(f"{label} holds no text; it is {name}", str(path))
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or (head and looks_like_utf16(head)):
        raise wrong_encoding(path, f"{label}:1", "UTF-16", "UTF-16")
    if b"\0" in head:
        raise DataError(f"{label} holds no text (there is a zero byte in its beginning)", str(path), "name a text file")


def looks_like_utf16(head: bytes) -> bool:
    """Latin text in UTF-16 has a zero in every other byte."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    return max(even, odd) > len(head) // 4 and min(even, odd) < len(head) // 50 + 1


def not_utf8(path: Path, where: str, line: bytes, place: int) -> RowError:
    """The error of a damaged line; raises DataError where the whole file is in another encoding."""
    with path.open("rb") as file:
        sample = file.read(SAMPLE)
    if is_mostly_utf8(sample):
        what = f"byte 0x{line[place]:02x} (the line's byte {place + 1}) is no UTF-8"
        return RowError("not UTF-8", what, where, "mend the letter there")
    if not is_mostly_utf8(sample + line) and looks_like_gbk(sample + line):
        raise wrong_encoding(path, where, "GBK / GB18030", "GB18030")
    if looks_like_cyrillic(sample + line):
        raise wrong_encoding(path, where, "Windows-1251", "WINDOWS-1251")
    if looks_like_shift_jis(sample + line):
        raise wrong_encoding(path, where, "Shift JIS", "CP932")
    raise wrong_encoding(path, where, "Latin-1 / Windows-1252", "WINDOWS-1252")


def wrong_encoding(path: Path, where: str, name: str, iconv: str) -> DataError:
    return DataError(
        f"{path.name} is not UTF-8; it looks like {name}",
        where,
        f"save it as UTF-8 in the editor, or `iconv -f {iconv} -t UTF-8 {path.name} > utf8_{path.name}`",
    )


def is_mostly_utf8(data: bytes) -> bool:
    """Nine of ten of the bytes beyond ASCII form valid UTF-8, and there are some."""
    beyond = sum(byte > 127 for byte in data)
    good = sum(len(char.encode()) for char in data.decode("utf-8", "ignore") if char > "\x7f")
    return beyond > 0 and good >= 0.9 * beyond


def looks_like_gbk(data: bytes) -> bool:
    """Most characters beyond ASCII are of GB 2312's common part (lead bytes B0 to D7) or its punctuation (A1 to A3)."""
    common = other = 0
    place = 0
    while place < len(data) - 1:
        lead, trail = data[place], data[place + 1]
        if lead < 128:
            place += 1
            continue
        if 0xA1 <= trail <= 0xFE and (0xB0 <= lead <= 0xD7 or 0xA1 <= lead <= 0xA3):
            common += 1
        else:
            other += 1
        place += 2
    return common > 2 * other


def looks_like_cyrillic(data: bytes) -> bool:
    """Most bytes beyond ASCII are small letters of Windows-1251 that stand in words."""
    beyond = [i for i, byte in enumerate(data[:65536]) if byte > 127]
    inside = sum(1 for i in beyond if data[i] >= 0xE0 and i + 1 < len(data) and data[i + 1] >= 0xC0)
    return len(beyond) > 8 and inside > 0.6 * len(beyond)


def looks_like_shift_jis(data: bytes) -> bool:
    """Kana have the lead bytes 82 and 83."""
    beyond = sum(byte > 127 for byte in data)
    return data.count(b"\x82") + data.count(b"\x83") > beyond // 6
