"""Said is shown: whether all that a row says is found where it belongs in the rendered text."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any


def lost_in_prompt(prompt: str, before: list[dict[str, Any]], tools: list[dict[str, Any]], context: Collection[int]) -> str:
    """What a prompt leaves out of the system, user and tool texts, of the declared tools and of what the assistant says in
    turns that are context alone; "" where all is there."""
    for number, message in enumerate(before):
        if message["role"] != "assistant" and not shows(prompt, message["content"]):
            return f"the {message['role']} text of message {number} goes missing"
        if number in context and (lost := lost_in_answer(prompt, message, "")):
            return f"{lost}, which message {number} says"
    for tool in tools:
        if not shows(prompt, tool["function"]["name"]):
            return f"the declared tool `{tool['function']['name']}` goes missing"
    return ""


def lost_in_answer(answer: str, message: dict[str, Any], reasoning: str) -> str:
    """What of a turn's text, calls and reasoning an answer leaves out; "" where all is there."""
    if not shows(answer, message["content"]):
        return "the answer's text goes missing"
    if not shows(answer, reasoning):
        return "the reasoning goes missing"
    functions = [call["function"] for call in message.get("tool_calls", ())]
    for function in functions:
        name = function["name"]
        calls = sum(other["name"] == name for other in functions)
        if max(answer.count(name), answer.count(escaped(name))) < calls or not all(
            shows(answer, leaf) for leaf in leaves(function["arguments"])
        ):
            return f"the call of `{name}` goes missing"
    return ""


def shows(text: str, said: Any) -> bool:
    """Whether a text or another JSON value is written in `text`, as it is or as JSON writes it."""
    if isinstance(said, str):
        said = said.strip()
        return said in text or escaped(said) in text
    return json.dumps(said) in text or str(said) in text


def escaped(text: str) -> str:
    """The text as JSON writes it, without the quotes."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def leaves(value: Any) -> Iterator[Any]:
    """The values and keys of a call's arguments."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value
