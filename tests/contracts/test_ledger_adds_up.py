"""Contract 5: rows_in == trained + validation + dropped(by reason), always, and each dropped row is listed with its place."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finery.config.load import config_from_dict
from finery.data.ledger import BadRows
from finery.data.prepare import prepare
from finery.errors import DataError
from tests.tiny import make_tokenizer

TOKENIZER = make_tokenizer()


def chat(*texts: str, weight: float = 1) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text, "weight": weight * (i % 2)} for i, text in enumerate(texts)]}


LINES = {
    "good": json.dumps(chat("Name a metal.", "Iron.")),
    "same": json.dumps(chat("Name a metal.", "Iron.")),
    "other shape": json.dumps({"instruction": "Name a tree.", "input": None, "output": "Oak."}),
    "long, cut between turns": json.dumps(chat("a", "b " * 20, "c", "d " * 20, "e", "f " * 20)),
    "long": json.dumps(chat("Say it.", "word " * 100)),
    "blank": "  ",
    "broken": '{"messages": [',
    "no object": "[1]",
    "no answer": json.dumps(chat("Anybody?")),
    "weight 0": json.dumps(chat("a", "b", weight=0)),
    "null": json.dumps({"instruction": "a", "output": None}),
    "number": json.dumps({"instruction": "a", "output": 3}),
    "half a letter": json.dumps(chat("a", "\ud83d")),
    "image": json.dumps({**chat("a", "b"), "images": ["a.png"]}),
    "pair": json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}),
    "raw text": json.dumps({"text": "words"}),
    "unknown": json.dumps({"zzz": 1}),
    "surprise": "{}",
}
FINE = {"good", "same", "other shape", "long", "long, cut between turns", "blank"}  # long rows are another matter
BAD = set(LINES) - FINE


@settings(max_examples=120, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(sorted(LINES)), max_size=40),
    on_too_long=st.sampled_from(["error", "drop", "truncate", "split"]),
    on_bad_row=st.sampled_from(["error", "drop"]),
    validation=st.sampled_from([None, 0.1, 0.5, 1, 3]),
    files=st.integers(1, 3),
)
def test_any_mixture(kinds: list[str], on_too_long: str, on_bad_row: str, validation: float | None, files: int) -> None:
    kinds = ["good", "other shape", *kinds]
    with tempfile.TemporaryDirectory() as scratch:
        names = []
        for number in range(files):
            path = Path(scratch) / f"rows{number}.jsonl"
            path.write_text("\n".join([LINES["good"]] + [LINES[kind] for kind in kinds[number::files]]) + "\n")
            names.append(str(path))
        values = {"model": "tiny", "data": names, "context": 64, "on_too_long": on_too_long, "on_bad_row": on_bad_row}
        if validation is not None:
            values["validation"] = validation
        try:
            prepared = prepare(config_from_dict(values), TOKENIZER, [TOKENIZER.eos_token_id])
        except BadRows as error:
            ledger = error.ledger
            assert any(kind in BAD or kind.startswith("long") for kind in kinds)
        except DataError as error:
            assert validation is not None and ("nothing is left" in str(error) or "say the same" in str(error))
            return
        else:
            ledger = prepared.ledger
            assert ledger.trained == len(prepared.train) == len(prepared.source_of_row)
            assert ledger.validation == len(prepared.validation)
            assert on_bad_row == "drop" or not BAD & set(kinds)
            assert on_too_long != "error" or not any(kind.startswith("long") for kind in kinds)
    rows = sum(kind != "blank" for kind in kinds) + files
    assert ledger.rows_in == rows == ledger.trained + ledger.validation + sum(ledger.dropped.values())
    assert Counter(problem.reason for problem in ledger.problems) == ledger.dropped
    bad = {
        f"rows{number}.jsonl:{line}"
        for number in range(files)
        for line, kind in enumerate(kinds[number::files], 2)
        if kind in BAD or (kind == "long" or (kind.startswith("long") and on_too_long in ("error", "drop")))
    }
    assert {problem.origin for problem in ledger.problems} == bad
    cut = sum(kind == "long, cut between turns" for kind in kinds)
    assert len(ledger.truncated) == (cut if on_too_long == "truncate" else 0)
    assert len(ledger.split) == (cut if on_too_long == "split" else 0)
    told = ledger.to_json()
    assert told["rows_in"] == sum(source["rows"] for source in told["sources"])
    json.dumps(told, ensure_ascii=False).encode()


@pytest.mark.parametrize("validation", [None, 0.3, 2])
@pytest.mark.parametrize("context", [8, 64, 4096])
def test_raw_text(tmp_path: Path, context: int, validation: float | None) -> None:
    lines = [{"text": f"Document {i}. " * (1 + 7 * i)} for i in range(6)] + [{"text": ""}, {"text": None}, {"text": 3}]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    values: dict[str, Any] = {"model": "tiny", "data": str(tmp_path / "text.jsonl"), "context": context, "objective": "pt"}
    if validation:
        values["validation"] = validation
    with pytest.raises(BadRows, match=r"3 of 9 documents"):
        prepare(config_from_dict(values), TOKENIZER, [])
    ledger = prepare(config_from_dict({**values, "on_bad_row": "drop"}), TOKENIZER, []).ledger
    assert (ledger.rows_in, ledger.trained + ledger.validation, sum(ledger.dropped.values())) == (9, 6, 3)
    assert ledger.validation == (2 if validation else 0)
