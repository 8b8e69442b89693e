"""Conversations of marks: what a template does with a kind of conversation is read off words that occur nowhere else.

In a row's own texts "Hi" is found in "this"; a mark is found only where the template writes it. So whether everything is said,
and where turns begin and end, is learned once for each kind of conversation, from its twin made of marks.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from finery.data.template import Dicts
from finery.data.turns import INLINE, Turn, Way

MARK = re.compile(r"zqmark(\d+)(text|thought)qz")
NAME = "zqnameqz"  # of a tool
FIELDS = {"text": "content", "thought": "reasoning_content"}

Pattern = list[str]  # literal, number, field, literal, number, field, ..., literal


class Pieces(NamedTuple):
    """A turn of marks, cut at the marks."""

    prompt: Pattern
    answer: Pattern
    full: Pattern


class Learned(NamedTuple):
    """What is known about a kind of conversation: the way of each trained turn, or what goes missing."""

    ways: list[Way | None]
    pieces: list[Pieces] | None = None  # where texts alone decide what is written
    lost: str = ""
    lost_turn: int = -1


def kind_of(given: Dicts, tools: Dicts) -> tuple[Any, ...]:
    """What two conversations share for which a template does the same."""
    return (bool(tools), *(kind_of_message(message) for message in given))


def kind_of_message(message: dict[str, Any]) -> tuple[Any, ...]:
    content = message["content"]
    return (
        message["role"],
        content if not content.strip() else content.startswith(INLINE),
        "reasoning_content" in message,
        tuple(bool(call["function"]["arguments"]) for call in message.get("tool_calls", ())),
        "name" in message,
        "tool_call_id" in message,
    )


def twin(given: Dicts, tools: Dicts) -> tuple[Dicts, Dicts]:
    """The conversation with marks for all that it says."""
    declared = {
        "name": NAME,
        "description": "zqdescriptionqz",
        "parameters": {"type": "object", "properties": {"zqkeyqz": {"type": "string"}}},
    }
    return [twin_of(number, message) for number, message in enumerate(given)], [
        {"type": "function", "function": declared}
    ] if tools else []


def twin_of(number: int, message: dict[str, Any]) -> dict[str, Any]:
    made = dict(message)
    if message["content"].strip():
        thought = f"{INLINE}\nzqmark{number}thoughtqz\n</think>\n\n" if message["content"].startswith(INLINE) else ""
        made["content"] = f"{thought}zqmark{number}textqz"
    if "reasoning_content" in message:
        made["reasoning_content"] = f"zqmark{number}thoughtqz"
    if "name" in message:
        made["name"] = NAME
    if "tool_calls" in message:
        made["tool_calls"] = [
            {
                **call,
                "function": {
                    "name": NAME,
                    "arguments": {"zqkeyqz": f"zqmark{number}call{n}qz"} if call["function"]["arguments"] else {},
                },
            }
            for n, call in enumerate(message["tool_calls"])
        ]
    return made


def cut(turn: Turn) -> Pieces:
    return Pieces(*(MARK.split(text) for text in (turn.prompt, turn.answer, turn.full)))


def fill(pattern: Pattern, given: Dicts) -> str:
    """The text of marks with a conversation's own texts in place of the marks."""
    filled = list(pattern[::3])
    for at in range(len(filled) - 1):
        filled[at] += given[int(pattern[3 * at + 1])][FIELDS[pattern[3 * at + 2]]]
    return "".join(filled)
