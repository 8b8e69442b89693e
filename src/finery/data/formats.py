"""From a raw row to an Example: the format is recognised by the row's own columns, no registry, no names of formats to give.

    messages      messages | conversations, with tools and system beside        OpenAI, ShareGPT
    preference    chosen and rejected, with the prompt inside or beside         -> two answers
    ranking       a prompt with a list of answers, best first                   -> n answers
    answer        a prompt and an answer (Alpaca and the like), history         -> one answer
    text          raw text

A label (KTO) may stand beside messages or an answer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from finery.data.messages import split_thought, to_messages, to_tools
from finery.data.sources import RawRow, kind_of
from finery.errors import RowError
from finery.types import Example, Message

PROMPT = ("instruction", "prompt", "question", "query", "problem")
INPUT = ("input",)
ANSWER = ("output", "response", "answer", "completion", "target", "solution")
MESSAGES = ("messages", "conversations", "conversation")
TEXT = ("text", "content")
CHOSEN, REJECTED = ("chosen", "chosen_messages"), ("rejected", "rejected_messages")
LABEL = ("label", "kto_tag")
MEDIA = ("images", "image", "videos", "video", "audios", "audio")
BESIDE = ("system", "history", "tools", *LABEL, *MEDIA)
KNOWN = (*PROMPT, *INPUT, *ANSWER, *MESSAGES, *TEXT, *CHOSEN, *REJECTED, *BESIDE)

# What `columns:` in the settings may name, and the column that it stands for.
MAPPABLE = {
    name: name for name in ("prompt", "input", "answer", "system", "history", "messages", "tools", "chosen", "rejected")
}
MAPPABLE |= {"label": "label", "text": "text"}


def recognise(row: dict[str, Any]) -> str | None:
    """The format of one row by its columns that are not null, else by all; None where nothing is known."""
    for names in ({k for k, v in row.items() if v is not None}, set(row)):
        if names & set(CHOSEN) and names & set(REJECTED):
            return "preference"
        if names & set(MESSAGES):
            return "messages"
        if names & set(PROMPT) and (names & set(ANSWER) or names & set(INPUT)):
            ranked = any(isinstance(row.get(k), list) and len(row[k]) > 1 for k in ANSWER)
            return "ranking" if ranked and all(isinstance(a, str) for a in first(row, ANSWER)) else "answer"
        if names & set(TEXT):
            return "text"
    return "answer" if set(row) & set(PROMPT) else None


def to_example(raw: RawRow, form: str, source: str) -> Example:
    """The row's Example; RowError with the reason and the column where it can't be one."""
    if raw.problem is not None:
        raise raw.problem
    row = raw.value
    refuse_broken_text(row)
    refuse_media(row)
    make = {"messages": from_messages, "preference": from_preference, "ranking": from_ranking, "answer": from_answer}
    if form == "text":
        return Example(text=required_text(row, TEXT), source=source, origin=raw.origin)
    prompt, answers = make[form](row)
    if not any(m.content or m.tool_calls for m in prompt if m.role != "system") and form != "messages":
        raise RowError("the prompt is empty", f"the prompt is empty ({', '.join(k for k in row if k in PROMPT)})")
    return Example(
        prompt=prompt,
        answers=answers,
        tools=to_tools(row.get("tools")),
        labels={"label": label_of(row)} if any(row.get(k) is not None for k in LABEL) else {},
        source=source,
        origin=raw.origin,
    )


# --- the formats -------------------------------------------------------------------------------------------------------------


def from_messages(row: dict[str, Any]) -> tuple[list[Message], list[list[Message]]]:
    """Everything up to the last assistant turn is prompt, that turn is the answer; what follows it carries no signal."""
    column = next(k for k in MESSAGES if k in row)
    messages = with_system(row, to_messages(row[column], column))
    last = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=None)
    if last is None:
        raise RowError("no answer to learn", f"`{column}` has no assistant turn, so there is no answer to learn")
    for number, message in enumerate(messages[: last + 1]):
        if message.role == "assistant" and not (message.content.strip() or message.tool_calls):  # type: ignore[union-attr]
            raise RowError("an answer is empty", f"`{column}[{number}]` is an assistant turn without text or calls")
    asked = next((i for i, m in enumerate(messages) if m.role in ("user", "tool")), len(messages))
    # a greeting answers nobody: the model sees it, but does not learn to speak first
    messages = [m if i > asked or m.role != "assistant" or last < asked else silent(m) for i, m in enumerate(messages)]
    return messages[:last], [messages[last : last + 1]]


def from_preference(row: dict[str, Any]) -> tuple[list[Message], list[list[Message]]]:
    """chosen and rejected as text, one message, or whole conversations whose common beginning is the prompt."""
    chosen_key, rejected_key = next(k for k in CHOSEN if k in row), next(k for k in REJECTED if k in row)
    sides = [conversation_side(row[key], key) for key in (chosen_key, rejected_key)]
    prompt: list[Message] = []
    if any(k in row for k in MESSAGES):
        column = next(k for k in MESSAGES if k in row)
        prompt = to_messages(row[column], column)
    elif any(row.get(k) is not None for k in PROMPT):
        prompt = asked_messages(row)
    else:
        shared = 0
        for one, other in zip(*sides, strict=False):
            if one != other:
                break
            shared += 1
        shared = min(shared, len(sides[0]) - 1, len(sides[1]) - 1)
        prompt, sides = sides[0][:shared], [side[shared:] for side in sides]
        if any(m.role != "assistant" for side in sides for m in side[:1]):
            raise RowError("two prompts", "chosen and rejected answer different prompts")
    for key, side in zip((chosen_key, rejected_key), sides, strict=True):
        if not side or side[-1].role != "assistant":
            raise RowError("no answer to learn", f"`{key}` does not end with an assistant's answer")
    if sides[0] == sides[1]:
        raise RowError("chosen equals rejected", "chosen equals rejected: there is no signal in it")
    return with_system(row, prompt), sides


def conversation_side(value: Any, column: str) -> list[Message]:
    if isinstance(value, str):
        return [answer_message(value)]
    if isinstance(value, dict):
        return to_messages([value], column)
    if value is None:
        raise RowError(f"`{column}` is missing", f"`{column}` is null")
    return to_messages(value, column)


def from_ranking(row: dict[str, Any]) -> tuple[list[Message], list[list[Message]]]:
    """A list of answers, best first."""
    return asked_messages(row), [[answer_message(text)] for text in first(row, ANSWER)]


def from_answer(row: dict[str, Any]) -> tuple[list[Message], list[list[Message]]]:
    """instruction, input, output, system, history and what they are called elsewhere."""
    text = required_text(row, ANSWER)
    if not text.strip():
        column = next(k for k in ANSWER if k in row)
        raise RowError("the answer is empty", f"`{column}` holds no text, so there is no answer to learn")
    return asked_messages(row), [[answer_message(text)]]


def asked_messages(row: dict[str, Any]) -> list[Message]:
    """system, history and the question of a row with columns."""
    parts = [optional_text(row, PROMPT), optional_text(row, INPUT)]
    question = "\n".join(part for part in parts if part.strip())
    if not question:
        raise RowError(
            "the prompt is empty", f"the prompt is empty ({', '.join(f'`{k}`' for k in row if k in PROMPT + INPUT)})"
        )
    messages: list[Message] = []
    history = row.get("history")
    if history is not None and not isinstance(history, list):
        raise RowError("`history` is not a list", f"`history` is a {kind_of(history)}, a list of [question, answer] is needed")
    for number, turn in enumerate(history or []):
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise RowError("a turn of `history` is broken", f"`history[{number}]` is not a [question, answer] pair of texts")
        messages += [Message("user", turn[0]), answer_message(turn[1])]
    return with_system(row, [*messages, Message("user", question)])


def answer_message(text: str) -> Message:
    reasoning, answer = split_thought(text)
    return Message("assistant", answer, reasoning)


def with_system(row: dict[str, Any], messages: list[Message]) -> list[Message]:
    """The system text beside the messages, in front, unless they have one."""
    system = optional_text(row, ("system",))
    if system.strip() and not (messages and messages[0].role == "system"):
        return [Message("system", system), *messages]
    return messages


def label_of(row: dict[str, Any]) -> bool:
    """Whether an answer is a good one (KTO)."""
    value = first(row, LABEL)
    words = {"true": True, "false": False, "1": True, "0": False}
    if isinstance(value, bool) or (isinstance(value, (int, float)) and value in (0, 1)):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise RowError("the label is no boolean", f"the label is {value!r}; true or false is needed")


def silent(message: Message) -> Message:
    from dataclasses import replace

    return replace(message, weight=0.0)


# --- texts -------------------------------------------------------------------------------------------------------------------


def first(row: dict[str, Any], names: Iterable[str]) -> Any:
    """The first of the columns that is there and not null."""
    return next((row[k] for k in names if row.get(k) is not None), None)


def required_text(row: dict[str, Any], names: tuple[str, ...]) -> str:
    value = first(row, names)
    if value is None:
        column = next((k for k in names if k in row), names[0])
        state = "is null" if column in row else "is missing"
        raise RowError(f"`{column}` {state}", f"`{column}` {state}")
    return checked_text(value, next(k for k in names if row.get(k) is not None))


def optional_text(row: dict[str, Any], names: tuple[str, ...]) -> str:
    column = next((k for k in names if row.get(k) is not None), None)
    return "" if column is None else checked_text(row[column], column)


def checked_text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        kind = kind_of(value)
        raise RowError(f"`{column}` is a {kind}", f"`{column}` is a {kind}, text is needed", way_out="put it in quotes")
    return value


def refuse_broken_text(value: Any) -> None:
    """RowError where a text holds half of a surrogate pair: no tokenizer can encode it."""
    if isinstance(value, str):
        bad = next((c for c in value if "\ud800" <= c <= "\udfff"), None)
        if bad is not None:
            what = f"a text holds half of a surrogate pair (U+{ord(bad):04X}), which is no character"
            raise RowError("broken Unicode", what, way_out="write the character whole, or leave it out")
    elif isinstance(value, dict):
        for key, inner in value.items():
            refuse_broken_text(key)
            refuse_broken_text(inner)
    elif isinstance(value, list):
        for inner in value:
            refuse_broken_text(inner)


def refuse_media(row: dict[str, Any]) -> None:
    """Models that see or hear come later; a row is never trained without its picture."""
    if column := next((k for k in MEDIA if row.get(k)), None):
        raise RowError("holds media", f"`{column}` holds media, and this model takes no images, video or audio")


# --- columns -----------------------------------------------------------------------------------------------------------------


def rename(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    """The row with the user's columns under the names that are known here."""
    taken = set(columns.values())
    return {**{k: v for k, v in row.items() if k not in taken}, **{ours: row.get(theirs) for ours, theirs in columns.items()}}


def mapping_hint(names: list[str]) -> str:
    """What to write where nothing in a file is recognised: the nearest right names, or a mapping to fill in."""
    near = {name: difflib.get_close_matches(name, KNOWN, 1, cutoff=0.75) for name in names}
    if guesses := {name: found[0] for name, found in near.items() if found and found[0] != name}:
        return "did you mean " + ", ".join(f"`{right}` for `{name}`" for name, right in guesses.items()) + "?"
    free = [name for name in names if name not in KNOWN] or names
    question, answer = (free + free)[:2]
    return f"say which column is what, in the YAML: data: {{path: FILE, columns: {{prompt: {question}, answer: {answer}}}}}"
