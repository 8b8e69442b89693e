"""Files as people have them: whatever their ending, encoding and line ends, rows come with their place or it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finery.data.sources import RawRow, files_of, read_file
from finery.errors import DataError

ROW = {"instruction": "Häufig?", "output": "你好 🚀"}


def read(path: Path) -> list[RawRow]:
    return [row for file in files_of(path) for row in read_file(file)]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def good(rows: list[RawRow]) -> list[tuple[dict[str, Any], str]]:
    return [(row.value, row.origin) for row in rows if row.problem is None]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["rows.jsonl", "ROWS.JSONL", "rows.ndjson", "rows.json"])
def test_json_lines(tmp_path: Path, name: str, end: str, encoding: str) -> None:
    line = json.dumps(ROW, ensure_ascii=False)
    path = write(tmp_path / name, end.join(["", line, "  \t", line, ""]), encoding)
    assert good(read(path)) == [(ROW, f"{name}:2"), (ROW, f"{name}:4")]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_an_array(tmp_path: Path, name: str, indent: int | None) -> None:
    path = write(tmp_path / name, "\ufeff" + json.dumps([ROW, ROW], indent=indent).replace("\n", "\r\n") + "\r\n")
    assert good(read(path)) == [(ROW, f"{name}:row 1"), (ROW, f"{name}:row 2")]


def test_one_object(tmp_path: Path) -> None:
    for mark in ("", "\ufeff"):
        path = write(tmp_path / "one.json", mark + json.dumps(ROW, indent=1))
        assert good(read(path)) == [(ROW, "one.json:row 1")]


@pytest.mark.parametrize("text", ["", "\n", "[]", " [ ] "])
def test_nothing_in_it(tmp_path: Path, text: str) -> None:
    assert read(write(tmp_path / "empty.json", text)) == []


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ('[\n{"a": 1},\n{"a": 2,},\n{"a": 3}]', 3, "row 2"),
        ('[\n{"a": 1},\n{"a": 2},\n]', 4, "comma after the last row"),
        ('[\n{"a": 1}\n{"a": 2}]', 3, "missing"),
        ('[{"a": 1}]\n\n[]', 3, "more text"),
        ('[\n{"a": 1},\n{"a": "x', 3, "ends in the middle"),
        ('{"a": 1,\n"b": [1}\n', 2, "column"),
    ],
)
def test_a_broken_array_names_its_line(tmp_path: Path, text: str, line: int, word: str) -> None:
    with pytest.raises(DataError) as error:
        read(write(tmp_path / "rows.json", text))
    assert f"rows.json:{line}" in str(error.value) and word in str(error.value)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('{"a": 1},', "comma after the row"),
        ("{'a': 1}", "single quotes"),
        ('{"a": 1} {"a": 2}', "second record"),
        ('{"a": "cut', "ends in the middle"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100_000, "too deep"),
        ("[1, 2]", "a list"),
        ("3", "a number"),
        ("null", "null"),
    ],
)
def test_broken_lines_are_told_and_the_others_read(tmp_path: Path, line: str, word: str) -> None:
    rows = read(write(tmp_path / "rows.jsonl", f'{{"a": 0}}\n\n{line}\n{{"a": 9}}\n'))
    assert good(rows) == [({"a": 0}, "rows.jsonl:1"), ({"a": 9}, "rows.jsonl:4")]
    [bad] = [row for row in rows if row.problem is not None]
    assert bad.origin == "rows.jsonl:3" and word in str(bad.problem) and len(str(bad.problem)) < 300


@pytest.mark.parametrize(
    ("text", "encoding", "name"),
    [
        ("请问一年有几个季节？四个季节。我们都知道。", "gb18030", "GBK"),
        ("Сколько времён года? Четыре времени года.", "cp1251", "1251"),
        ("これはテストです。春夏秋冬の四季があります。", "cp932", "Shift JIS"),
        ("Ça va très bien, déjà vu à Zürich", "latin-1", "Latin-1"),
        ("Plain text", "utf-16", "UTF-16"),
        ("Plain text", "utf-16-le", "UTF-16"),
        ("Plain text", "utf-16-be", "UTF-16"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "txt"])
def test_other_encodings_are_named(tmp_path: Path, ending: str, text: str, encoding: str, name: str) -> None:
    wrapped = json.dumps([{"text": text}], ensure_ascii=False) if ending == "json" else f"text\n{text}"
    if ending == "jsonl":
        wrapped = '{"text": "plain"}\n' + json.dumps({"text": text}, ensure_ascii=False)
    with pytest.raises(DataError) as error:
        read(write(tmp_path / f"rows.{ending}", wrapped, encoding))
    assert f"rows.{ending}:" in str(error.value) and name in str(error.value) and "iconv" in str(error.value)


def test_damaged_bytes_in_a_utf8_file_are_one_bad_row(tmp_path: Path) -> None:
    line = json.dumps({"text": "Müller und Söhne, 你好"}, ensure_ascii=False).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([line] * 9 + [line[:12] + line[13:]] + [line]))
    rows = read(path)
    assert len(good(rows)) == 10
    assert [row.origin for row in rows if row.problem] == ["rows.jsonl:10"]


@pytest.mark.parametrize(("ending", "sign"), [("csv", ","), ("csv", ";"), ("CSV", ","), ("tsv", "\t")])
def test_tables(tmp_path: Path, ending: str, sign: str) -> None:
    table = sign.join(("question", "answer")) + "\r\n"
    table += sign.join(("One?", '"two\r\nlines, ""quoted"""')) + "\r\n\r\n"
    table += sign.join(("Number?", "42")) + "\r\n"
    table += sign.join(("a", "b", "c")) + "\r\n"
    rows = read(write(tmp_path / f"t.{ending}", table, "utf-8-sig"))
    assert good(rows) == [
        ({"question": "One?", "answer": 'two\nlines, "quoted"'}, f"t.{ending}:2"),
        ({"question": "Number?", "answer": "42"}, f"t.{ending}:5"),
    ]
    [bad] = [row for row in rows if row.problem]
    assert bad.origin == f"t.{ending}:6" and "3 cells" in str(bad.problem)


def test_a_table_with_doubled_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="answer"):
        read(write(tmp_path / "t.csv", "answer,answer\n1,2\n"))


def test_parquet_padding_is_left_out(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "ROWS.PARQUET"
    pq.write_table(pa.Table.from_pylist([{"a": {"b": "x"}, "n": None}, {"a": {"c": "y"}, "n": 1}]), path)
    assert good(read(path)) == [
        ({"a": {"b": "x"}, "n": None}, "ROWS.PARQUET:row 1"),
        ({"a": {"c": "y"}, "n": 1}, "ROWS.PARQUET:row 2"),
    ]


def test_damaged_parquet(tmp_path: Path) -> None:
    for name, data in (("a.parquet", b"PAR1 and no more"), ("b.parquet", b'{"a": 1}')):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)


def test_texts(tmp_path: Path) -> None:
    paragraph = "Long lines are whole paragraphs. " * 30
    [lines] = files_of(write(tmp_path / "wiki.txt", f"{paragraph}\n\n{paragraph}\n"))
    assert [row.origin for row in read_file(lines)] == ["wiki.txt:1", "wiki.txt:3"]
    assert "one document per line" in lines.documents
    [poem] = files_of(write(tmp_path / "poem.txt", "Two short lines\r\nare one document.\r\n"))
    assert good(list(read_file(poem))) == [({"text": "Two short lines\nare one document.\n"}, "poem.txt:1")]
    assert "whole file" in poem.documents
    assert good(read(write(tmp_path / "marked.md", "\ufeff# Title\n"))) == [({"text": "# Title\n"}, "marked.md:1")]
    assert len(read(write(tmp_path / "notes.md", f"{paragraph}\n\n{paragraph}\n"))) == 1


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("b.jsonl", "sub/a.jsonl", "README.md", "dataset_info.json", ".git/x.jsonl", "picture.png"):
        write(folder / name, '{"text": "x"}\n')
    skipped: list[str] = []
    assert [file.label for file in files_of(folder, skipped)] == ["data/b.jsonl", "data/sub/a.jsonl"]
    assert sorted(skipped) == ["README.md", "dataset_info.json", "picture.png"]
    assert [row.origin for row in read(folder)] == ["data/b.jsonl:1", "data/sub/a.jsonl:1"]


def test_a_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"(?s)empty.*\.jsonl"):
        files_of(tmp_path / "empty")
    write(tmp_path / "empty" / "photo.png", "x")
    with pytest.raises(DataError, match=r"photo\.png"):
        files_of(tmp_path / "empty")


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "support.jsonl", "")
    for name, word in (("suport.jsonl", "support.jsonl"), ("“support.jsonl”", "full-width"), ("no/where.jsonl", "folder")):
        with pytest.raises(DataError) as error:
            files_of(tmp_path / name)
        assert Path(name).name in str(error.value) and word in str(error.value)


def test_unknown_endings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.xlsx.*"):
        files_of(write(tmp_path / "rows.xlsx", "x"))


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"%PDF-1.7\n", "PDF"),
        (b"PK\x03\x04rest", "zip"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PAR1", "Parquet"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x00\x01\x02\x03\x00\x00", "no text"),
    ],
)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv", "rows.txt"])
def test_files_that_are_no_text(tmp_path: Path, name: str, head: bytes, word: str) -> None:
    (tmp_path / name).write_bytes(head + b"\x00\xff\xfe binary")
    with pytest.raises(DataError) as error:
        read(tmp_path / name)
    assert name in str(error.value) and word in str(error.value)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.jsonl", '{"a": 1}\n')  # root may read everything, so the system's answer is put in

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"rows\.jsonl may not be read"):
        read(path)
