"""From files to rows: columns, lengths, blocks, held-out files, and what is said about them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finery.config.load import config_from_dict
from finery.data.blocks import cut
from finery.data.prepare import Prepared, prepare
from finery.data.preview import painted, records
from finery.errors import DataError
from tests.shared import shared
from tests.tiny import make_tokenizer

TOKENIZER = make_tokenizer()
STOP = TOKENIZER.eos_token_id
LLAMAFACTORY = {
    "alpaca_en_demo.json": "alpaca",
    "alpaca_zh_demo.json": "alpaca",
    "c4_demo.jsonl": "raw text",
    "dpo_en_demo.json": "preference",
    "dpo_zh_demo.json": "preference",
    "glaive_toolcall_en_demo.json": "sharegpt",
    "glaive_toolcall_zh_demo.json": "sharegpt",
    "identity.json": "alpaca",
    "kto_en_demo.json": "kto",
    "reason_tool_use_demo_50.jsonl": "openai",
    "v1_dpo_demo.jsonl": "preference",
    "v1_sft_demo.jsonl": "openai",
    "wiki_demo.txt": "raw text",
}


def run(data: Any, tokenizer: Any = TOKENIZER, **settings: Any) -> Prepared:
    values = {"model": "tiny", "data": data if isinstance(data, (dict, list)) else str(data), "context": 4096, **settings}
    return prepare(config_from_dict(values, files_must_exist=False), tokenizer, [STOP] if tokenizer else [])


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(*texts: str, system: str = "") -> dict[str, Any]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": ([{"role": "system", "content": system}] if system else []) + turns}


def learned(prepared: Prepared) -> list[str]:
    """The texts of the trained runs of the first row."""
    found = []
    for sequence in prepared.train[0].sequences:
        for part in np.split(np.arange(len(sequence.ids)), np.flatnonzero(np.diff(sequence.loss > 0)) + 1):
            if sequence.loss[part[0]] > 0:
                found.append(TOKENIZER.decode(sequence.ids[part].tolist()))
    return found


@pytest.mark.parametrize(("name", "form"), LLAMAFACTORY.items())
def test_the_other_systems_data_sets_are_recognised(name: str, form: str) -> None:
    path = shared("llamafactory", name)
    ledger = run(path, tokenizer=None).ledger
    assert [dict(source.formats) for source in ledger.sources] == [{form: ledger.rows_in}]
    assert ledger.trained == ledger.rows_in > 9 and not ledger.dropped
    text = path.read_text(encoding="utf-8")
    rows = len(json.loads(text)) if name.endswith(".json") else sum(bool(line.strip()) for line in text.splitlines())
    assert ledger.rows_in == rows


@pytest.mark.parametrize(
    ("name", "kind"), [("mllm_demo.json", "images"), ("mllm_audio_demo.json", "audio"), ("mllm_video_demo.json", "videos")]
)
def test_media_are_refused(name: str, kind: str) -> None:
    with pytest.raises(DataError, match=f"row 1: .*takes no {kind}"):
        run(shared("llamafactory", name))


def test_sources_columns_and_weights(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [{"frage": "Warum?", "antwort": f"Darum {i}.", "id": i} for i in range(3)])
    two = write(tmp_path / "two.jsonl", [{**chat("a", "b"), "meta": 1}])
    prepared = run([{"path": str(one), "columns": {"prompt": "frage", "answer": "antwort"}, "weight": 0.5}, str(two)])
    assert prepared.source_of_row == [0, 0, 0, 1] and prepared.weights == [0.5, 1.0]
    assert [row.example.origin for row in prepared.train] == ["one.jsonl:1", "one.jsonl:2", "one.jsonl:3", "two.jsonl:1"]
    assert [s.columns_used for s in prepared.ledger.sources] == [["frage", "antwort"], ["messages"]]
    assert [s.columns_unused for s in prepared.ledger.sources] == [["id"], ["meta"]]
    assert [sequence.row for row in prepared.train for sequence in row.sequences] == [0, 1, 2, 3]
    told = "\n".join(prepared.ledger.lines())
    assert "weight 0.5" in told and "columns not used: id" in told and "4 in = 4 trained" in told


@pytest.mark.parametrize(
    ("row", "columns", "words"),
    [
        ({"question": "a", "text_out": "b"}, {"answer": "textout"}, ["textout", "text_out"]),
        ({"instruction": "a", "inputs": "lost?", "output": "b"}, {}, ["inputs", "`input`"]),
        ({"instruction": "a", "ouput": "b"}, {}, ["ouput", "output"]),
        ({"conversatons": [], "x": 1}, {}, ["conversatons", "conversations"]),
        ({"problem": "a", "solution": "b", "answer": "c"}, {}, ["solution", "answer", "columns"]),
        ({"frage": "a", "antwort": "b"}, {}, ["frage", "antwort", "columns: {prompt: frage, answer: antwort}"]),
    ],
)
def test_columns_that_are_not_understood(
    tmp_path: Path, row: dict[str, str], columns: dict[str, str], words: list[str]
) -> None:
    path = write(tmp_path / "rows.jsonl", [row])
    for tokenizer in (None, TOKENIZER):
        with pytest.raises(DataError) as error:
            run({"path": str(path), "columns": columns}, tokenizer)
        assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("row", "objective", "words"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "sft", ["chosen", "sft", "dpo"]),
        ({"instruction": "a", "output": ["b", "c"]}, "sft", ["ranked", "sft", "dpo"]),
        ({**chat("a", "b"), "label": True}, "sft", ["label", "sft", "kto"]),
        ({"text": "words"}, "sft", ["raw text", "sft", "objective: pt"]),
        (chat("a", "b"), "pt", ["conversations", "pt", "objective: sft"]),
        ({"instruction": "a", "output": "b"}, "pt", ["questions with answers", "pt", "text"]),
    ],
)
def test_data_for_another_objective(tmp_path: Path, row: dict[str, Any], objective: str, words: list[str]) -> None:
    path = write(tmp_path / "rows.jsonl", [row])
    with pytest.raises(DataError) as error:
        run(path, objective=objective, on_bad_row="drop")
    assert all(word in str(error.value) for word in ["rows.jsonl", *words])
    assert any(objective in note for note in run(path, None, objective=objective).ledger.notes)


def test_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.jsonl: 0 rows"):
        run(tmp_path / "empty.jsonl")


def test_a_mapped_column_may_begin_late(tmp_path: Path) -> None:
    rows = [{"q": "a", "answer": str(i)} for i in range(50)]
    path = write(tmp_path / "rows.jsonl", [*rows, {"q": "a", "answer": "b", "sys": "Be brief."}])
    prepared = run({"path": str(path), "columns": {"prompt": "q", "system": "sys"}})
    assert prepared.train[-1].example.prompt[0].content == "Be brief."
    with pytest.raises(DataError, match="syst"):
        run({"path": str(path), "columns": {"prompt": "q", "system": "syst"}})


def test_every_bad_row_is_told_once_and_many_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [chat("a", "b")] + [chat("a")] * 50)
    with pytest.raises(DataError) as error:
        run(path)
    told = str(error.value)
    assert "50 of 51 rows" in told and "rows.jsonl:2:" in told and "rows.jsonl:21:" in told and "rows.jsonl:22:" not in told
    assert "30 more" in told and "on_bad_row=drop" in told and len(told) < 3000


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "rows.jsonl", [chat("q", folder)])
    prepared = run([str(tmp_path / "a" / "rows.jsonl"), str(tmp_path / "b" / "rows.jsonl")])
    assert len({row.example.origin for row in prepared.train}) == 2


# --- lengths -----------------------------------------------------------------------------------------------------------------

TURNS = [f"Question {i}?" if i % 2 == 0 else f"Answer {i}." for i in range(12)]


def test_too_long_is_an_error_with_place_and_count(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [chat("a", "b"), chat(*TURNS)])
    whole = len(run(path).train[1].sequences[0].ids)
    with pytest.raises(DataError) as error:
        run(path, context=64, on_bad_row="drop")
    assert all(word in str(error.value) for word in ("rows.jsonl:2", str(whole), "64", "on_too_long"))
    assert run(path, context=64, on_too_long="drop").ledger.dropped == {"longer than context": 1}


def test_truncated_to_whole_turns(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [chat(*TURNS, system="Be brief.")])
    whole = run(path).train[0].sequences[0].ids.tolist()
    for context in range(60, len(whole), 7):
        prepared = run(path, context=context, on_too_long="truncate")
        [sequence] = prepared.train[0].sequences
        ids = sequence.ids.tolist()
        assert len(ids) <= context and ids == whole[: len(ids)] and ids[-1] == STOP and sequence.loss[-1] == 1
        kept = len(learned(prepared))
        assert learned(prepared) == [text + "<|im_end|>" for text in TURNS[1 : 2 * kept : 2]]
        longer = run(write(tmp_path / "more.jsonl", [chat(*TURNS[: 2 * kept + 2], system="Be brief.")]))
        assert longer.ledger.tokens["max"] > context  # one more turn would not have fitted
        assert len(prepared.ledger.truncated) == 1 and prepared.ledger.trained == 1


def test_nothing_fits(tmp_path: Path) -> None:
    rows = [chat("a", "b"), chat("long question " * 30, "b", "c", "d")]
    ledger = run(write(tmp_path / "rows.jsonl", rows), context=48, on_too_long="truncate").ledger
    assert ledger.trained == 1 and [problem.origin for problem in ledger.problems] == ["rows.jsonl:2"]
    assert "tokens, longer than context (48), already with the first answer" in ledger.problems[0].what


@pytest.mark.parametrize("context", [60, 75, 90, 120])
def test_split_between_turns_learns_every_answer_once(tmp_path: Path, context: int) -> None:
    path = write(tmp_path / "rows.jsonl", [chat(*TURNS, system="Be brief.")])
    prepared = run(path, context=context, on_too_long="split")
    assert learned(prepared) == [text + "<|im_end|>" for text in TURNS[1::2]]
    sequences = prepared.train[0].sequences
    assert len(sequences) > 1 and prepared.ledger.trained == 1 and len(prepared.ledger.split) == 1
    for sequence in sequences:
        text = TOKENIZER.decode(sequence.ids.tolist())
        assert len(sequence.ids) <= context and text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
        assert sequence.ids[-1] == STOP and sequence.loss[-1] > 0
    if context >= 90:  # later parts see what was said before, where there is room
        assert "Answer" in TOKENIZER.decode(sequences[1].ids[sequences[1].loss == 0].tolist())


def test_split_leaves_out_a_question_too_long_by_itself_and_says_so(tmp_path: Path) -> None:
    turns = ["One?", "1", "Two?", "2 " * 100, "Three?", "3"]
    prepared = run(write(tmp_path / "rows.jsonl", [chat(*turns)]), context=48, on_too_long="split")
    assert learned(prepared) == ["1<|im_end|>", "3<|im_end|>"]
    assert "1 of 3 questions left out" in str(prepared.ledger.split[0])


def test_split_keeps_a_call_with_its_result(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "Look.", "tool_calls": [{"function": {"name": "look", "arguments": {"at": "x"}}}]}
    exchange = [
        {"role": "user", "content": "See?"},
        call,
        {"role": "tool", "content": "seen"},
        {"role": "assistant", "content": "Yes."},
    ]
    row = {"messages": exchange * 4, "tools": [{"name": "look", "description": "Look.", "parameters": {}}]}  # fmt: skip
    whole = run(write(tmp_path / "rows.jsonl", [row]), template="chatml").ledger.tokens["max"]
    prepared = run(tmp_path / "rows.jsonl", template="chatml", context=int(whole * 0.8), on_too_long="split")
    assert len(prepared.train[0].sequences) > 1 and len(learned(prepared)) == 8


def test_last_turn_only_and_long_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [chat(*TURNS), chat("a", "b")])
    only_last = {"type": "sft", "last_turn_only": True}
    prepared = run(path, objective=only_last, context=80, on_too_long="split")
    assert learned(prepared) == [TURNS[-1] + "<|im_end|>"]
    assert 60 < len(prepared.train[0].sequences[0].ids) <= 80  # with as much before it as fits
    assert run(path, objective=only_last, context=80, on_too_long="truncate").ledger.dropped == {"longer than context": 1}


# --- raw text ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [8, 9, 31, 64, 1000])
def test_each_token_is_learned_exactly_once(context: int) -> None:
    for length in (2, 3, context - 1, context, context + 1, 2 * context - 1, 2 * context, 777):
        ids = np.arange(length, dtype=np.int32)
        chunks = cut(ids, context)
        assert [int(i) for chunk in chunks for i in chunk.ids[chunk.loss > 0]] == list(range(1, length))
        assert all(2 <= len(chunk.ids) <= context for chunk in chunks)
        for earlier, later in pairwise(chunks):
            assert later.ids[0] == earlier.ids[-1] and later.loss[0] == 0


def test_blocks(tmp_path: Path) -> None:
    texts = [f"Document {i}, with <|im_end|> and 你好. " * (1 + i % 7) for i in range(40)]
    path = write(tmp_path / "text.jsonl", [{"text": text} for text in texts])
    prepared = run(path, objective="pt", context=64)
    assert prepared.renderer is None and prepared.source_of_row == [0] * len(prepared.train)
    assert all(row.tokens <= 64 for row in prepared.train)
    assert {record["origin"] for record in records(prepared, TOKENIZER)} == {f"text.jsonl:{i + 1}" for i in range(40)}
    total = sum(int((s.loss > 0).sum()) for row in prepared.train for s in row.sequences)
    plain = [TOKENIZER(t, add_special_tokens=False, split_special_tokens=True)["input_ids"] for t in texts]
    assert total == sum(map(len, plain))  # every token but the first, and the end
    assert sum(int((s.ids == STOP).sum()) for row in prepared.train for s in row.sequences) == 40  # only ends are the end token
    tokens = sum(row.tokens for row in prepared.train)
    assert len(prepared.train) <= tokens / 64 * 1.1 + 1  # blocks are full
    assert prepared.ledger.blocks == {"train": len(prepared.train), "validation": 0}
    assert "batch_size counts blocks" in "\n".join(prepared.ledger.lines())


def test_the_tokenizers_own_beginning_is_kept(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    prepared = run(write(tmp_path / "text.jsonl", [{"text": "Some words."}]), tokenizer, objective="pt")
    [sequence] = prepared.train[0].sequences
    assert (
        sequence.ids[0] == 1 and sequence.ids[-1] == STOP and sequence.loss.tolist() == [0.0] + [1.0] * (len(sequence.ids) - 1)
    )


def test_one_document_holds_out_its_last_blocks(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Short lines of a book.\n" * 200)
    for validation, held in ((0.1, None), (3, 3)):
        prepared = run(tmp_path / "book.txt", objective="pt", context=64, validation=validation)
        assert len(prepared.validation) == (held or round(0.1 * (len(prepared.train) + len(prepared.validation))))
        assert prepared.validation[-1].sequences[-1].ids[-1] == STOP
        assert (prepared.ledger.rows_in, prepared.ledger.trained) == (1, 1)
        assert any("last" in note and "held out" in note for note in prepared.ledger.notes)
        assert len(prepared.source_of_row) == len(prepared.train)


# --- held-out rows -----------------------------------------------------------------------------------------------------------


def test_validation_does_not_depend_on_the_order(tmp_path: Path) -> None:
    rows = [chat(f"Question {i}?", "Yes.") for i in range(30)]
    sides = []
    for order in (rows, rows[::-1]):
        prepared = run(write(tmp_path / "rows.jsonl", order), validation=0.2)
        sides.append({row.example.prompt[0].content for row in prepared.validation})
        assert len(prepared.train) == 24 and len(prepared.source_of_row) == 24
    assert sides[0] == sides[1] and len(sides[0]) == 6


def test_a_file_of_its_own(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [chat("a", "b"), chat("c", "d")])
    held = write(tmp_path / "held.jsonl", [chat("a", "b"), chat("e", "f")])
    prepared = run(train, validation=str(held))
    assert len(prepared.train) == len(prepared.validation) == 2 and prepared.weights == [1.0]
    assert any("1 held-out" in note for note in prepared.ledger.notes)
    assert [source.use for source in prepared.ledger.sources] == ["train", "validation"]
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(DataError, match=r"none\.jsonl"):
        run(train, validation=str(tmp_path / "none.jsonl"))


def test_folders_with_parts_to_hold_out_are_noted(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write(tmp_path / f"{name}.jsonl", [chat("q", name)])
    assert any("test.jsonl" in note and "validation" in note for note in run(tmp_path).ledger.notes)
    assert not run(tmp_path / "test.jsonl").ledger.notes


def test_text_beside_a_conversation(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{**chat("a", "b"), "text": "a and b"}])
    assert dict(run(path).ledger.sources[0].formats) == {"openai": 1}
    assert dict(run(path, objective="pt").ledger.sources[0].formats) == {"raw text": 1}


def test_many_bad_rows_are_counted_in_a_moment(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [chat("a")] * 20_000)
    with pytest.raises(DataError, match="20,000 of 20,000"):
        run(path)


# --- preview -----------------------------------------------------------------------------------------------------------------


def test_records_and_colours(tmp_path: Path) -> None:
    prepared = run(write(tmp_path / "rows.jsonl", [chat("Name a metal.", "Iron 你好.")]))
    [record] = records(prepared, TOKENIZER)
    assert record["origin"] == "rows.jsonl:1" and len(record["ids"]) == len(record["loss"])
    assert record["text"].endswith("assistant\nIron 你好.<|im_end|>")
    text = painted(prepared.train[0].sequences[0], TOKENIZER)
    assert text.plain == record["text"]
    underlined = "".join(text.plain[span.start : span.end] for span in text.spans if "underline" in str(span.style))
    assert underlined == "Iron 你好.<|im_end|>"


def test_progress(tmp_path: Path) -> None:
    told: list[int] = []
    path = write(tmp_path / "rows.jsonl", [chat("a", "b")] * 1000)
    config = config_from_dict({"model": "tiny", "data": str(path), "context": 64})
    prepare(config, TOKENIZER, [STOP], progress=lambda done, _: told.append(done))
    assert told == [200, 400, 600, 800, 1000]


def test_half_letters_never_reach_what_is_printed(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"question": "a", "answer": "b", "odd\\ud83d": 1}\n{"\\ud83d": 1}\n{"messages": [3]}\n'
    )
    ledger = run(tmp_path / "rows.jsonl", on_bad_row="drop").ledger
    assert (ledger.rows_in, ledger.trained) == (3, 1) and "odd\\ud83d" in ledger.sources[0].columns_unused
    json.dumps(ledger.to_json(), ensure_ascii=False).encode("utf-8")
    "\n".join(ledger.lines()).encode("utf-8")
    (tmp_path / "rows.jsonl").write_text('{"\\ud83d": "a", "b\\ud83d": "c"}\n')
    with pytest.raises(DataError) as error:
        run(tmp_path / "rows.jsonl")
    str(error.value).encode("utf-8")
