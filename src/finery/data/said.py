"""Said is shown: whether all that a row says is found where it belongs in the rendered text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def lost_in_prompt(prompt: str, before: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    """What of the system, user and tool texts and the declared tools a prompt leaves out; "" where all is there."""
    for number, message in enumerate(before):
        if message["role"] != "assistant" and not shows(prompt, message["content"]):
            return f"the {message['role']} text of message {number} goes missing"
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
    for call in message.get("tool_calls", ()):
        function = call["function"]
        if not shows(answer, function["name"]) or not all(shows(answer, leaf) for leaf in leaves(function["arguments"])):
            return f"the call of `{function['name']}` goes missing"
    return ""


def end_of_said(answer: str, message: dict[str, Any], reasoning: str) -> int:
    """Where the last thing that a turn says ends in its answer, in letters."""
    texts = [message["content"], reasoning]
    for call in message.get("tool_calls", ()):
        texts += [call["function"]["name"], *(leaf for leaf in leaves(call["function"]["arguments"]))]
    return max((end_of(answer, text) for text in texts), default=0)


def end_of(answer: str, said: Any) -> int:
    """Where the last occurrence of a text or another JSON value ends, 0 where there is none."""
    plain = said.strip() if isinstance(said, str) else str(said)
    written = json.dumps(plain if isinstance(said, str) else said, ensure_ascii=False)
    forms = [plain, written[1:-1] if isinstance(said, str) else written]
    return max((answer.rindex(form) + len(form) for form in forms if form and form in answer), default=0)


def shows(text: str, said: Any) -> bool:
    """Whether a text or another JSON value is written in `text`, as it is or as JSON writes it."""
    if isinstance(said, str):
        said = said.strip()
        return said in text or json.dumps(said, ensure_ascii=False)[1:-1] in text
    return json.dumps(said) in text or str(said) in text


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
