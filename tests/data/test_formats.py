"""Every shape that data sets have becomes the same Example, or the row says what is wrong with it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from finery.config.schema import COLUMNS
from finery.data.columns import NAMES, columns_of
from finery.data.formats import recognise, to_example
from finery.errors import DataError, RowError
from finery.types import Example, Message, ToolCall

TOOL = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}


def example(
    row: dict[str, Any], mapping: dict[str, str] | None = None, notes: Counter[str] | None = None
) -> tuple[str, Example]:
    columns = columns_of(row, mapping or {})
    form = recognise(row, columns)
    assert form is not None
    return form, to_example(row, form, columns, Counter() if notes is None else notes)


def flat(made: Example) -> list[tuple[str, str]]:
    return [(m.role, str(m.content)) for m in [*made.prompt, *made.answers[0]]]


CHAT = [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
ROLES = {"system": "system", "user": "human", "assistant": "gpt"}


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"messages": [{"role": r, "content": t} for r, t in CHAT]}, "openai"),
        ({"messages": [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in CHAT]}, "openai"),
        ({"messages": [{"role": r, "content": [{"type": "text", "value": t}], "loss_weight": 1.0} for r, t in CHAT]}, "openai"),
        ({"conversations": [{"from": ROLES[r], "value": t} for r, t in CHAT]}, "sharegpt"),
        ({"conversation": [{"role": r, "content": t} for r, t in CHAT[1:]], "system": "Be brief."}, "openai"),
        ({"messages": json.dumps([{"role": r, "content": t} for r, t in CHAT])}, "openai"),
        ({"instruction": "Two?", "input": "", "output": "2", "system": "Be brief.", "history": [["One?", "1"]]}, "alpaca"),
        ({"question": "Two?", "answer": "2", "system_prompt": "Be brief.", "history": '[["One?", "1"]]'}, "prompt and answer"),
        (
            {
                "prompt": [{"role": r, "content": t} for r, t in CHAT[:-1]],
                "completion": [{"role": "assistant", "content": "2"}],
            },
            "prompt and answer",
        ),
    ],
)
def test_conversations(row: dict[str, Any], form: str) -> None:
    found, made = example({**row, "id": 7, "unused": None})
    assert found == form and flat(made) == CHAT and len(made.answers) == 1


@pytest.mark.parametrize(
    ("question", "answer"),
    [("prompt", "completion"), ("question", "answer"), ("instruction", "response"), ("query", "output"), ("input", "target")],
)
def test_names_of_prompts_and_answers(question: str, answer: str) -> None:
    assert flat(example({question: "Why?", answer: "So."})[1]) == [("user", "Why?"), ("assistant", "So.")]


def test_instruction_and_input_are_joined() -> None:
    for first, second, text in (("A", "B", "A\nB"), ("A", "", "A"), ("", "B", "B"), ("A", None, "A"), (" A ", " ", " A ")):
        assert example({"instruction": first, "input": second, "output": "x"})[1].prompt == [Message("user", text)]


def test_mapping_comes_first() -> None:
    row = {"frage": "Why?", "antwort": "So.", "output": "not this", "sys": "Be brief."}
    form, made = example(row, {"prompt": "frage", "answer": "antwort", "system": "sys"})
    assert form == "prompt and answer"
    assert flat(made) == [("system", "Be brief."), ("user", "Why?"), ("assistant", "So.")]


def test_the_settings_know_the_same_names() -> None:
    assert set(COLUMNS) == set(NAMES)


def test_two_candidates_are_not_guessed() -> None:
    with pytest.raises(DataError, match=r"`answer` and `solution`"):
        columns_of({"problem": "1+1?", "solution": "Add.", "answer": "2"}, {})
    assert columns_of({"problem": "1+1?", "solution": "Add.", "answer": "2"}, {"answer": "solution"})["answer"] == "solution"
    assert columns_of({"problem": "1+1?", "solution": None, "answer": "2"}, {})["answer"] == "answer"


CALL = {"name": "look", "arguments": {"at": "É", "n": None}}


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]}],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": json.dumps(CALL["arguments"])}}]}],
        [{"role": "assistant", "content": "", "function_call": {"name": "look", "arguments": json.dumps(CALL["arguments"])}}],
        [{"from": "function_call", "value": json.dumps(CALL)}],
        [{"from": "function_call", "value": json.dumps([CALL])}],
        [{"role": "assistant", "content": [{"type": "tool_call", "value": json.dumps(CALL)}]}],
    ],
)
def test_tool_calls(messages: list[dict[str, Any]]) -> None:
    key = "from" if "from" in messages[0] else "role"
    text = "value" if key == "from" else "content"
    result = {key: "observation" if key == "from" else "tool", text: '{"seen": 1}'}
    chat = [{key: "user", text: "Look!"}, *messages, result, {key: "assistant", text: "Seen."}]
    _, made = example({"messages": chat, "tools": [TOOL]})
    assert made.prompt[1] == Message("assistant", "", tool_calls=(ToolCall("look", {"at": "É", "n": None}),))
    assert made.prompt[2] == Message("tool", '{"seen": 1}')


def test_parallel_calls_and_ids() -> None:
    calls = [{"id": i, "type": "function", "function": {"name": "look", "arguments": {}}} for i in ("a", "b")]
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Wait.", "tool_calls": calls}]
    [message] = example({"messages": chat})[1].answers[0]
    assert message == Message("assistant", "Wait.", tool_calls=(ToolCall("look", {}, "a"), ToolCall("look", {}, "b")))


@pytest.mark.parametrize("tools", [[TOOL], TOOL, json.dumps([TOOL]), [TOOL["function"]], [{"function": TOOL["function"]}]])
def test_tools(tools: Any) -> None:
    assert example({"question": "a", "answer": "b", "tools": tools})[1].tools == [TOOL]


@pytest.mark.parametrize("tools", [None, "", "  ", "[]", []])
def test_no_tools(tools: Any) -> None:
    assert example({"question": "a", "answer": "b", "tools": tools})[1].tools == []


@pytest.mark.parametrize(
    "message",
    [
        {"content": "4.", "reasoning_content": "2+2"},
        {"content": "4.", "reasoning": "2+2"},
        {"content": "4.", "thinking": "2+2"},
        {"content": "<think>\n2+2\n</think>\n\n4."},
        {"content": [{"type": "reasoning", "value": "2+2"}, {"type": "text", "value": "4."}]},
    ],
)
def test_reasoning(message: dict[str, Any]) -> None:
    chat = [{"role": "user", "content": "Sum?"}, {"role": "assistant", **message}]
    assert example({"messages": chat})[1].answers == [[Message("assistant", "4.", "2+2")]]


def test_a_thought_in_plain_text_is_noted() -> None:
    notes: Counter[str] = Counter()
    made = example({"question": "Sum?", "answer": "<think>2+2</think>4."}, notes=notes)[1]
    assert made.answers == [[Message("assistant", "4.", "2+2")]] and any("<think>" in note for note in notes)
    assert example({"question": "Sum?", "answer": "I <think> so</think>."})[1].answers[0][0].reasoning == ""


def test_weights() -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    made = example(
        {"messages": [*chat, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 0.5}]}
    )[1]
    assert [m.weight for m in [*made.prompt, *made.answers[0]] if m.role == "assistant"] == [0.0, 0.5]
    for weight in (-1, "1", True, float("nan")):
        with pytest.raises(RowError, match="weight"):
            example({"messages": [chat[0], {**chat[1], "weight": weight}]})
    with pytest.raises(RowError, match="no answer to learn"):
        example({"messages": chat})


@pytest.mark.parametrize(
    "row",
    [
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Good"},
            "rejected": {"from": "gpt", "value": "Bad"},
        },
        {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"},
        {"instruction": "Hi", "input": "", "chosen": "Good", "rejected": "Bad"},
        {
            "prompt": "Hi",
            "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good"}],
            "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Bad"}],
        },
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": "Good"}],
            "rejected": [{"role": "assistant", "content": "Bad"}],
        },
        {
            "chosen_messages": [
                {"role": "user", "content": [{"type": "text", "value": "Hi"}]},
                {"role": "assistant", "content": "Good"},
            ],
            "rejected_messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Bad"}],
        },
    ],
)
def test_preference(row: dict[str, Any]) -> None:
    form, made = example(row)
    assert form == "preference" and made.prompt == [Message("user", "Hi")]
    assert made.answers == [[Message("assistant", "Good")], [Message("assistant", "Bad")]]


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"prompt": "a", "chosen": "x", "rejected": "x"}, "equals"),
        ({"prompt": "a", "chosen": "x", "rejected": None}, "rejected"),
        ({"prompt": "a", "chosen": "", "rejected": "x"}, "chosen"),
        (
            {
                "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                "rejected": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
            },
            "prompt",
        ),
    ],
)
def test_pairs_without_signal(row: dict[str, Any], word: str) -> None:
    with pytest.raises(RowError, match=word):
        example(row)


def test_ranking_kto_and_text() -> None:
    form, made = example({"instruction": "a", "input": "", "output": ["best", "good", "bad"]})
    assert form == "ranking" and [answer[0].content for answer in made.answers] == ["best", "good", "bad"]
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for row in ({"messages": chat, "label": False}, {"prompt": "a", "completion": "b", "kto_tag": "false"}):
        form, made = example(row)
        assert form == "kto" and made.labels == {"label": False}
    assert example({"messages": chat, "label": "geography"})[0] == "openai"
    with pytest.raises(RowError, match="good"):
        example({"prompt": "a", "completion": "b", "kto_tag": "good"})
    for column in ("text", "content"):
        assert example({column: " as it is\n"}) == ("raw text", Example(text=" as it is\n"))


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "answer"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "user turn"),
        ({"messages": [{"role": "narrator", "content": "a"}]}, "narrator"),
        ({"messages": ["a"]}, "is text"),
        ({"messages": {"role": "user"}}, "a JSON object"),
        ({"messages": [{"role": "user", "content": 3}]}, "a number"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "takes no images"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "hologram"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}, "without text"),
        ({"messages": [{"role": "user", "content": "a"}, {"from": "function_call", "value": "{'name'}"}]}, "not JSON"),
        ({"messages": [{"role": "user", "content": "a"}, {"from": "function_call", "value": "[3]"}]}, "no object"),
        ({"question": "a", "answer": "b", "tools": "[{"}, "tools"),
        ({"question": "a", "answer": "b", "tools": [{"nom": "x"}]}, "tools"),
        ({"question": "a", "answer": "b", "images": "x.png"}, "takes no images"),
        ({"question": "a", "answer": "b", "history": [["x", None]]}, "history"),
        ({"question": "a", "answer": "b", "history": "x"}, "history"),
        ({"question": "a", "answer": None}, "answer"),
        ({"question": "a \ud83d", "answer": "b"}, "D83D"),
        ({"text": " \n"}, "no text"),
    ],
)
def test_rows_that_cannot_be_used_say_why(row: dict[str, Any], word: str) -> None:
    with pytest.raises(RowError, match=word):
        example(row)


def test_two_system_texts() -> None:
    chat = [{"role": "system", "content": "A"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert example({"messages": chat, "system": "A"})[1].prompt[0] == Message("system", "A")
    with pytest.raises(RowError, match="two system texts"):
        example({"messages": chat, "system": "B"})


def test_values_that_json_cannot_hold() -> None:
    """A Parquet file has dates; a model's tool call has not."""
    import datetime

    day = datetime.date(2020, 1, 1)
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {"day": day}}}]}
    for row in (
        {"messages": [{"role": "user", "content": "a"}, call]},
        {"question": "a", "answer": "b", "tools": [{"name": "look", "parameters": {"since": float("inf")}}]},
        {"question": "a", "answer": "b", "tools": [{"name": "look\ud83d"}]},
    ):
        with pytest.raises(RowError):
            example(row)
