"""From a raw row to an Example. The format is told by the row's own columns; there is no registry and no name to give.

preference           chosen and rejected, with the prompt inside or beside them       two answers
openai, sharegpt     messages | conversations, with tools and system beside them      one answer
alpaca               instruction, input, output, system, history                      one answer
prompt and answer    question and answer, prompt and completion, ...                  one answer
ranking              a prompt with a list of answers, best first                      n answers
kto                  messages or a prompt with an answer, and whether it is a good one
raw text             text, no conversation
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finery.data.columns import MEDIA, NAMES, Columns
from finery.data.messages import answer_message, as_message, to_messages, to_tools
from finery.data.values import as_json, kind_of, text_of
from finery.errors import RowError
from finery.types import Example, Message

CHATS = ("openai", "sharegpt", "alpaca", "prompt and answer")
FITS = {"sft": CHATS, "pt": ("raw text",)}
READ = {  # the right names that a format reads
    "preference": ("chosen", "rejected", "messages", "prompt", "input", "system", "history", "tools"),
    "openai": ("messages", "tools", "system"),
    "sharegpt": ("messages", "tools", "system"),
    "alpaca": ("prompt", "input", "answer", "system", "history", "tools"),
    "prompt and answer": ("prompt", "input", "answer", "system", "history", "tools"),
    "ranking": ("prompt", "input", "answer", "system", "history", "tools"),
    "kto": ("messages", "prompt", "input", "answer", "label", "system", "history", "tools"),
    "raw text": ("text",),
}
WORDS = {"true": True, "false": False, "1": True, "0": False}


def recognise(row: Mapping[str, Any], columns: Columns, objective: str = "sft") -> str | None:
    """The format of one row, None where its columns tell nothing. `columns`: those that hold something, by right name.

    Where a row has both a conversation and raw text, the objective decides.
    """
    if objective == "pt" and "text" in columns:
        return "raw text"
    if "chosen" in columns or all(any(c in row for c in NAMES[right]) for right in ("chosen", "rejected")):
        return "preference"
    rated = columns.get("label") == "kto_tag" or isinstance(row.get(columns.get("label", "")), bool)
    if "messages" in columns:
        return "kto" if rated else chat_kind(row[columns["messages"]])
    asked, answered = "prompt" in columns or "input" in columns, "answer" in columns
    if asked and answered:
        answer = row[columns["answer"]]
        if isinstance(answer, list) and answer and all(isinstance(one, str) for one in answer):
            return "ranking"
        known = columns.get("prompt", columns.get("input")) in ("instruction", "input") and columns["answer"] == "output"
        return "kto" if rated else "alpaca" if known else "prompt and answer"
    if "text" in columns:
        return "raw text"
    if any(c in row for right in ("prompt", "answer") for c in NAMES[right]) and (asked or answered):
        return "alpaca" if {"instruction", "output"} & set(row) else "prompt and answer"
    return "openai" if any(c in row for c in NAMES["messages"]) else None


def chat_kind(messages: Any) -> str:
    first = next((m for m in messages if isinstance(m, dict)), {}) if isinstance(messages, list) else {}
    return "sharegpt" if "from" in first else "openai"


def to_example(
    row: Mapping[str, Any], form: str, columns: Columns, notes: Counter[str], *, source: str = "", origin: str = ""
) -> Example:
    """The row's Example. RowError names the column and what is wrong with it; what is decided for the user is noted."""
    refuse_media(row)
    if form == "raw text":
        text = text_of(row[columns["text"]], columns["text"])
        if not text.strip():
            raise RowError("the text is empty", f"`{columns['text']}` holds no text")
        return Example(text=text, source=source, origin=origin)
    make = {
        "preference": from_preference,
        "ranking": from_ranking,
        "kto": from_rated,
        "openai": from_chat,
        "sharegpt": from_chat,
    }
    prompt, answers = make.get(form, from_answer)(row, columns, notes)
    tools = to_tools(row[columns["tools"]], columns["tools"]) if "tools" in columns else []
    labels = {"label": label_of(row, columns)} if form == "kto" else {}
    return Example(prompt, answers, tools=tools, labels=labels, source=source, origin=origin)


def refuse_media(row: Mapping[str, Any]) -> None:
    """A row is never trained without its picture. None and an empty list are no media."""
    for column, kind in MEDIA.items():
        if row.get(column):
            raise RowError(f"the model takes no {kind}", f"`{column}` holds {kind}, and this model takes no {kind}")


# --- conversations -----------------------------------------------------------------------------------------------------------


def from_chat(row: Mapping[str, Any], columns: Columns, notes: Counter[str]) -> tuple[list[Message], list[list[Message]]]:
    """Everything before the last assistant turn is prompt, that turn is the answer; what follows it carries no signal."""
    if "messages" not in columns:
        raise missing(row, "messages")
    column = columns["messages"]
    messages = with_system(row, columns, to_messages(row[column], column, notes))
    last = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=None)
    if last is None:
        raise RowError("no answer to learn", f"`{column}` has no assistant turn, so there is no answer to learn")
    if last + 1 < len(messages):
        notes["turns after the last answer are left out: nothing answers them"] += 1
    messages = messages[: last + 1]
    asked = next((i for i, m in enumerate(messages) if m.role in ("user", "tool")), None)
    if asked is None or asked > last:
        raise RowError("no question", f"`{column}` has no user turn before the assistant's")
    if any(m.role == "assistant" for m in messages[:asked]):
        notes["an assistant's turn before the first question is context, not learned"] += 1
        messages = [replace(m, weight=0.0) if i < asked and m.role == "assistant" else m for i, m in enumerate(messages)]
    refuse_empty(messages, column)
    if not any(m.role == "assistant" and m.weight for m in messages):
        raise RowError("no answer to learn", f"every assistant turn of `{column}` has weight 0: there is no answer to learn")
    return messages[:-1], [messages[-1:]]


def refuse_empty(messages: list[Message], column: str) -> None:
    for number, message in enumerate(messages):
        if message.role == "assistant" and not str(message.content).strip() and not message.tool_calls:
            raise RowError("an answer is empty", f"`{column}[{number}]` is an assistant turn without text or tool calls")


def with_system(row: Mapping[str, Any], columns: Columns, messages: list[Message]) -> list[Message]:
    """The system text beside the messages, in front of them."""
    system = text_of(row[columns["system"]], columns["system"]) if "system" in columns else ""
    if not system.strip():
        return messages
    if messages and messages[0].role == "system":
        if messages[0].content != system:
            raise RowError("two system texts", f"`{columns['system']}` and the first message are two system texts")
        return messages
    return [Message("system", system), *messages]


# --- prompts with answers ----------------------------------------------------------------------------------------------------


def from_answer(row: Mapping[str, Any], columns: Columns, notes: Counter[str]) -> tuple[list[Message], list[list[Message]]]:
    """Question and answer in columns: texts, or lists of messages."""
    if "answer" not in columns:
        raise missing(row, "answer")
    column = columns["answer"]
    if isinstance(row[column], list) and row[column] and isinstance(row[column][0], dict):
        answer = to_messages(row[column], column, notes)
    else:
        answer = [answer_message(text_of(row[column], column), notes)]
    if not answer or answer[-1].role != "assistant":
        raise RowError("no answer to learn", f"`{column}` does not end with an assistant's turn")
    if len(answer) == 1 and not str(answer[0].content).strip() and not answer[0].tool_calls:
        raise RowError("the answer is empty", f"`{column}` holds no text, so there is no answer to learn")
    refuse_empty(answer, column)
    return [*question_of(row, columns, notes), *answer[:-1]], [answer[-1:]]


def from_ranking(row: Mapping[str, Any], columns: Columns, notes: Counter[str]) -> tuple[list[Message], list[list[Message]]]:
    """A list of answers, best first."""
    column = columns["answer"]
    answers = [answer_message(text_of(text, column), notes) for text in row[column]]
    if len(answers) < 2:
        raise RowError("nothing to rank", f"`{column}` is a list with one answer, so there is nothing to rank")
    refuse_empty(answers, column)
    return question_of(row, columns, notes), [[answer] for answer in answers]


def question_of(row: Mapping[str, Any], columns: Columns, notes: Counter[str]) -> list[Message]:
    """system, history and the question; a prompt may be a list of messages."""
    prompt = columns.get("prompt", "")
    if isinstance(row.get(prompt), list):
        return with_system(row, columns, to_messages(row[prompt], prompt, notes))
    asked = [columns[right] for right in ("prompt", "input") if right in columns]
    parts = [text_of(row[column], column) for column in asked]
    question = "\n".join(part for part in parts if part.strip())
    if not question:
        there = [c for right in ("prompt", "input") for c in NAMES[right] if c in row]
        raise RowError("the question is empty", f"{' and '.join(f'`{c}`' for c in there) or '`prompt`'} hold no text")
    turns = history_of(row, columns, notes) if "history" in columns else []
    return with_system(row, columns, [*turns, Message("user", question)])


def history_of(row: Mapping[str, Any], columns: Columns, notes: Counter[str]) -> list[Message]:
    """Earlier questions and answers, as pairs."""
    column = columns["history"]
    pairs = as_json(row[column], column)
    if pairs is not None and not isinstance(pairs, list):
        raise RowError("`history` is no list", f"`{column}` is {kind_of(pairs)}; a list of [question, answer] is needed")
    messages: list[Message] = []
    for number, pair in enumerate(pairs or []):
        if not (isinstance(pair, list) and len(pair) == 2):
            raise RowError("a turn of `history` is broken", f"`{column}[{number}]` is no [question, answer] pair")
        asked, answered = (text_of(text, f"{column}[{number}]") for text in pair)
        messages += [Message("user", asked), answer_message(answered, notes)]
    refuse_empty(messages, column)
    return messages


def missing(row: Mapping[str, Any], right: str) -> RowError:
    """A column that the format needs is null or not there."""
    column = next((c for c in NAMES[right] if c in row), None)
    if column is not None:
        return RowError(f"`{column}` is null", f"`{column}` is null, so there is nothing to learn")
    return RowError(f"no {right}", f"a column with the {right} is missing: {', '.join(NAMES[right])}")


# --- judged answers ----------------------------------------------------------------------------------------------------------


def from_preference(row: Mapping[str, Any], columns: Columns, notes: Counter[str]) -> tuple[list[Message], list[list[Message]]]:
    """chosen and rejected: texts, one message each, or conversations whose common beginning is the prompt."""
    sides = []
    for right in ("chosen", "rejected"):
        if right not in columns:
            raise missing(row, right)
        sides.append(side_of(row[columns[right]], columns[right], notes))
    if any(side[0].role != "assistant" for side in sides):
        shared = 0
        while shared < min(map(len, sides)) - 1 and sides[0][shared] == sides[1][shared]:
            shared += 1
        prompt, sides = sides[0][:shared], [side[shared:] for side in sides]
        prompt = with_system(row, columns, prompt)
        if any(side[0].role != "assistant" for side in sides):
            raise RowError("two prompts", "chosen and rejected answer different prompts")
    elif "messages" in columns:
        prompt = with_system(row, columns, to_messages(row[columns["messages"]], columns["messages"], notes))
    else:
        prompt = question_of(row, columns, notes)
    for right, side in zip(("chosen", "rejected"), sides, strict=True):
        if side[-1].role != "assistant":
            raise RowError("no answer to learn", f"`{columns[right]}` does not end with an assistant's turn")
        if not str(side[-1].content).strip() and not side[-1].tool_calls:
            raise RowError(f"`{right}` is empty", f"`{columns[right]}` holds no text")
    if sides[0] == sides[1]:
        raise RowError("chosen equals rejected", "chosen equals rejected: there is no signal in the pair")
    return prompt, sides


def side_of(value: Any, column: str, notes: Counter[str]) -> list[Message]:
    if isinstance(value, str):
        return [answer_message(text_of(value, column), notes)]
    side = [as_message(value, column, notes)] if isinstance(value, dict) else to_messages(value, column, notes)
    if not side:
        raise RowError(f"`{column}` is empty", f"`{column}` holds no message")
    return side


def from_rated(row: Mapping[str, Any], columns: Columns, notes: Counter[str]) -> tuple[list[Message], list[list[Message]]]:
    return (from_chat if "messages" in columns else from_answer)(row, columns, notes)


def label_of(row: Mapping[str, Any], columns: Columns) -> bool:
    """Whether the answer is a good one (KTO)."""
    if "label" not in columns:
        raise missing(row, "label")
    value = row[columns["label"]]
    if isinstance(value, bool) or (isinstance(value, (int, float)) and value in (0, 1)):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in WORDS:
        return WORDS[value.strip().lower()]
    raise RowError("the label is no boolean", f"`{columns['label']}` is {str(value)[:40]!r}; true or false is needed")
