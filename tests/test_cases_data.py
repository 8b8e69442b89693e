"""The data cases of the shared test data: small inputs after public bug reports, each with its right outcome in cases.yaml."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml

from finery.config.load import config_from_dict
from finery.data.ledger import Ledger
from finery.data.prepare import Prepared, prepare
from finery.errors import DataError
from finery.types import Row, Sequence
from tests.shared import SHARED_DATA, shared
from tests.tiny import make_tokenizer

DEFAULT_TEMPLATE = "HuggingFaceTB-SmolLM2-135M-Instruct"
STOP = "<|im_end|>"
# What may never stand in a rendered text, where cases.yaml says so in words.
NEVER = {
    "data-gbk-chinese": ["\ufffd"],
    "data-bom-crlf": ["\ufeff", "\r"],
    "data-mixed-content-shapes": ["None", "[{'type'"],
    "data-null-and-empty": ["None", "null"],
    "data-answers-not-text": ["True", "None"],
    "data-tool-shapes": ['\\"', "\\u00c9"],
    "data-parquet-padding": ["None", "null"],
}


def cases() -> list[Any]:
    file = SHARED_DATA / "cases" / "cases.yaml"
    if not file.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"{file} is missing: set FINERY_SHARED_DATA"))]
    every = yaml.safe_load(file.read_text(encoding="utf-8"))["cases"]
    chosen = [case for case in every if case["kind"] == "data" or case["id"] == "training-thinking-turns"]
    return [pytest.param(case, id=case["id"]) for case in chosen]


@cache
def tokenizer_of(template: str) -> Any:
    source = shared("templates", f"{template}.jinja").read_text(encoding="utf-8")
    return make_tokenizer(source, special=("<|im_start|>", STOP))


def run(case: dict[str, Any], path: Path, **settings: Any) -> Prepared:
    """What `finery check FILE model=TINY` does."""
    tokenizer = tokenizer_of(case["run"].get("template", DEFAULT_TEMPLATE))
    values = {"model": "tiny", "data": str(path), "context": 4096, **case["run"].get("options", {}), **settings}
    return prepare(config_from_dict(values, files_must_exist=False), tokenizer, [tokenizer.eos_token_id])


def files(case: dict[str, Any], tmp_path: Path) -> list[Path]:
    if "prepare" in case["run"]:
        spec = importlib.util.spec_from_file_location("gen_cases", shared("cases", "gen_cases.py"))
        assert spec and spec.loader
        generator = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(generator)
        generator.CASES[case["id"]](tmp_path)
        folder = tmp_path
    else:
        folder = shared("cases", case["id"])
    data = case["run"]["data"]
    return [folder / name for name in ([data] if isinstance(data, str) else data)]


def text_of(case: dict[str, Any], ids: list[int]) -> str:
    tokenizer = tokenizer_of(case["run"].get("template", DEFAULT_TEMPLATE))
    return tokenizer.decode(ids, skip_special_tokens=False)


def pieces(case: dict[str, Any], sequence: Sequence) -> list[tuple[bool, str]]:
    """[is trained, text] of each run of tokens."""
    pairs = zip(sequence.ids.tolist(), (sequence.loss > 0).tolist(), strict=True)
    return [(trained, text_of(case, [i for i, _ in run])) for trained, run in groupby(pairs, key=lambda pair: pair[1])]


def trained_texts(case: dict[str, Any], rows: list[Row]) -> list[str]:
    found = [text for row in rows for s in row.sequences for trained, text in pieces(case, s) if trained]
    assert all(text.endswith(STOP) for text in found)
    return [text.removesuffix(STOP) for text in found]


def place(origin: str) -> int:
    return int(re.findall(r"\d+", origin)[-1])


@pytest.mark.parametrize("case", cases())
def test_case(case: dict[str, Any], tmp_path: Path) -> None:
    right = case["right"]
    started = time.process_time()
    for path in files(case, tmp_path):
        expected = {**right, **right.get("each", {}).get(path.name, {})}
        if expected["outcome"] == "refused":
            with pytest.raises(DataError) as refused:
                run(case, path, on_bad_row="drop", on_too_long="drop")
            assert all(str(name) in str(refused.value) for name in expected["names"])
            continue
        refused_text = stopped(case, path)
        try:
            prepared = run(case, path, on_bad_row="drop", on_too_long="drop")
        except DataError as error:  # nothing is left of it
            ledger, rows = error.ledger, []  # type: ignore[attr-defined]
        else:
            ledger, rows = prepared.ledger, prepared.train
        check_counts(expected, ledger, rows, refused_text)
        check_rows(case, expected, ledger, rows)
        check_never(case, ledger, rows)
    assert time.process_time() - started < right.get("limits", {}).get("seconds", 60)


def stopped(case: dict[str, Any], path: Path) -> str:
    """The error of the default settings, which list every bad row; "" where all are good."""
    try:
        run(case, path)
    except DataError as error:
        assert len(str(error)) < 2500 and "Traceback" not in str(error)
        return str(error)
    return ""


def check_counts(right: dict[str, Any], ledger: Ledger, rows: list[Row], refused: str) -> None:
    if "rows_in" in right:
        assert ledger.rows_in == right["rows_in"]
    if "trained_rows" in right:
        assert len(rows) == ledger.trained == right["trained_rows"]
    assert ledger.rows_in == ledger.trained + ledger.validation + sum(ledger.dropped.values())
    for name in right.get("names", []):
        assert str(name) in refused
    if bad := right.get("bad_lines"):
        assert [place(problem.origin) for problem in ledger.problems] == bad
    json.dumps(ledger.to_json(), ensure_ascii=False).encode("utf-8")
    "\n".join(ledger.lines()).encode("utf-8")


def check_rows(case: dict[str, Any], right: dict[str, Any], ledger: Ledger, rows: list[Row]) -> None:
    by_place = {place(row.example.origin): row for row in rows}
    problems = {place(problem.origin): str(problem) for problem in ledger.problems}
    if text_only := right.get("with_text_only_model"):
        assert set(by_place) == set(text_only["rows"])
        assert all("takes no images" in problem for problem in problems.values())
        return
    if right["outcome"] == "accepted":
        assert not problems
        if "trained" in right:
            assert trained_texts(case, rows) == right["trained"]
        if "sequences" in right:
            check_sequences(case, right["sequences"], rows[0])
    for expected in right.get("rows", []):
        number = expected["row"]
        if expected["outcome"] == "counted_or_refused":
            assert number in problems, f"row {number} is not told"
            assert all(str(name) in problems[number] for name in expected.get("names", [])), problems[number]
        else:
            check_row(case, expected, by_place, number)


def check_row(case: dict[str, Any], expected: dict[str, Any], by_place: dict[int, Row], number: int) -> None:
    assert number in by_place, f"row {number} was left out"
    row = by_place[number]
    whole = "".join(text for sequence in row.sequences for _, text in pieces(case, sequence))
    for key in ("context_has", "user_text"):
        for text in [expected[key]] if isinstance(expected.get(key), str) else expected.get(key, []):
            assert text in whole
    if "user_text" in expected:
        assert f"user\n{expected['user_text']}{STOP}" in whole
    if "trained" in expected:
        assert trained_texts(case, [row]) == expected["trained"]
    if "trained_escaped" in expected:
        assert trained_texts(case, [row]) == [expected["trained_escaped"].encode().decode("unicode_escape")]
    if "code_points" in expected:
        assert len(trained_texts(case, [row])[0]) == expected["code_points"]
    if "same_as" in expected:
        other = by_place[expected["same_as"]]
        assert [s.ids.tolist() for s in row.sequences] == [s.ids.tolist() for s in other.sequences]
        assert [s.loss.tolist() for s in row.sequences] == [s.loss.tolist() for s in other.sequences]
    if "sequences" in expected:
        check_sequences(case, expected["sequences"], row)
    for token, count in expected.get("control_ids", {}).items():
        tokenizer = tokenizer_of(case["run"].get("template", DEFAULT_TEMPLATE))
        ids = [i for sequence in row.sequences for i in sequence.ids.tolist()]
        assert ids.count(tokenizer.convert_tokens_to_ids(token)) == count


def check_sequences(case: dict[str, Any], wanted: list[list[Any]], row: Row) -> None:
    """Each sequence as [is trained, text] pieces; where a single one is wanted it may stand without its outer list."""
    sequences = wanted if isinstance(wanted[0][0], list) else [wanted]
    assert len(row.sequences) == len(sequences)
    for sequence, pieces_wanted in zip(row.sequences, sequences, strict=True):
        found = pieces(case, sequence)
        assert [trained for trained, _ in found] == [trained for trained, _ in pieces_wanted]
        for (_, text), (_, want) in zip(found, pieces_wanted, strict=True):
            assert text.endswith(want[1:]) if want.startswith("…") else text == want


def check_never(case: dict[str, Any], ledger: Ledger, rows: list[Row]) -> None:
    texts = [text_of(case, sequence.ids.tolist()) for row in rows for sequence in row.sequences]
    for forbidden in NEVER.get(case["id"], []):
        for text in texts:
            body = text.split("</tools>", 1)[-1]  # templates write tools as they like
            assert forbidden not in body
    for source in ledger.sources:
        assert not any("\ufeff" in column for column in [*source.columns_used, *source.columns_unused])
