"""Messages and tools in the shapes that data sets have them: OpenAI, ShareGPT, content parts, JSON inside of text."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from finery.data.values import as_json, kind_of, plain_json, text_of
from finery.errors import RowError
from finery.types import Message, ToolCall

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "function_response"), "tool"),
}
CALLERS = ("function_call", "tool_call")  # ShareGPT's roles whose value is the call
REASONING = ("reasoning_content", "reasoning", "thinking")
TEXT_PARTS = ("text", "input_text", "output_text")
MEDIA_PARTS = {
    **dict.fromkeys(("image", "image_url", "input_image"), "images"),
    **dict.fromkeys(("video", "video_url"), "videos"),
    **dict.fromkeys(("audio", "audio_url", "input_audio"), "audio"),
}
THOUGHT_NOTE = "an answer that begins with a whole <think> block: what is in it is taken as reasoning"


def to_messages(value: Any, column: str, notes: Counter[str]) -> list[Message]:
    """A list of messages; RowError says which one is wrong, and how."""
    value = as_json(value, column)
    if not isinstance(value, list):
        raise RowError(f"`{column}` is no list", f"`{column}` is {kind_of(value)}; a list of messages is needed")
    return [as_message(item, f"{column}[{number}]", notes) for number, item in enumerate(value)]


def as_message(item: Any, place: str, notes: Counter[str]) -> Message:
    """One message of any known shape. null means absent."""
    if not isinstance(item, dict):
        raise RowError("a message is no object", f"`{place}` is {kind_of(item)}, not a message")
    given = {key: value for key, value in item.items() if value is not None}
    name = given.get("role", given.get("from"))
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        shown = repr(str(name)[:40]) if name is not None else "no role"
        raise RowError("a role is not known", f"`{place}` has the role {shown}", way_out=f"the roles are {', '.join(ROLES)}")
    content = given.get("content", given.get("value", ""))
    weight = weight_of(given, role, place, notes)
    if str(name).lower() in CALLERS:
        thought, rest = split_thought(text_of(content, place), notes) if isinstance(content, str) else ("", content)
        return Message(role, "", thought, to_calls(rest, place), weight)
    text, reasoning, calls = parts_of(content, place)
    reasoning = next((text_of(given[key], f"{place}.{key}") for key in REASONING if given.get(key)), reasoning)
    for key in ("tool_calls", "function_call"):
        calls += to_calls(given.get(key), f"{place}.{key}")
    if role == "tool":
        return Message(role, text, name=str(given.get("name", "")), tool_call_id=str(given.get("tool_call_id", "")))
    if role != "assistant":
        if reasoning or calls:
            raise RowError("a call or thought of no assistant", f"`{place}` is a {role} turn with a tool call or a thought")
        return Message(role, text)
    if not reasoning:
        reasoning, text = split_thought(text, notes)
    return Message(role, text, reasoning, calls, weight)


def answer_message(text: str, notes: Counter[str]) -> Message:
    """An assistant's turn from plain text."""
    reasoning, answer = split_thought(text, notes)
    return Message("assistant", answer, reasoning)


def split_thought(text: str, notes: Counter[str]) -> tuple[str, str]:
    """(thought, answer) of a text that begins with a whole <think> block, as reasoning models write it."""
    head = text.lstrip()
    if not head.startswith("<think>") or "</think>" not in head:
        return "", text
    notes[THOUGHT_NOTE] += 1
    thought, answer = head.removeprefix("<think>").split("</think>", 1)
    return thought.strip("\n"), answer.lstrip("\n")


def weight_of(given: dict[str, Any], role: str, place: str, notes: Counter[str]) -> float:
    """How much an assistant's turn counts in the loss: `weight` (OpenAI) or `loss_weight` (LLaMA-Factory)."""
    value = given.get("weight", given.get("loss_weight", 1.0 if role == "assistant" else 0.0))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise RowError("a weight is no number from 0", f"`{place}` has the weight {str(value)[:40]!r}")
    if role != "assistant" and value:
        notes[f"the weight of a {role} turn has no meaning: only assistant turns are learned"] += 1
    return float(value)


def parts_of(content: Any, place: str) -> tuple[str, str, tuple[ToolCall, ...]]:
    """(text, reasoning, calls) of a content that is text or a list of parts: a thought first, text, calls last."""
    if isinstance(content, str):
        return text_of(content, place), "", ()
    if not isinstance(content, list):
        text_of(content, place)
    text, reasoning = "", ""
    calls: tuple[ToolCall, ...] = ()
    for number, part in enumerate(content):
        at = f"{place}.content[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in MEDIA_PARTS:
            what = MEDIA_PARTS[kind]
            raise RowError(f"the model takes no {what}", f"`{at}` is of type {kind}, and this model takes no {what}")
        value = (
            next((part[key] for key in ("text", "value", "thinking", kind) if part.get(key) is not None), "") if kind else ""
        )
        if kind in TEXT_PARTS and not calls:
            text += text_of(value, at)
        elif kind in ("reasoning", "thinking") and not calls and not text:
            reasoning += text_of(value, at)
        elif kind in CALLERS:
            calls += to_calls(value, at)
        elif kind in (*TEXT_PARTS, "reasoning", "thinking"):
            raise RowError(
                "parts in an order that no template writes", f"`{at}`: a thought comes first, then text, then tool calls"
            )
        else:
            raise RowError("a content part is not known", f"`{at}` is of type {str(kind)[:40]!r}")
    return text, reasoning, calls


# --- tools -------------------------------------------------------------------------------------------------------------------


def to_calls(value: Any, place: str) -> tuple[ToolCall, ...]:
    """Tool calls: an object, a list of them for parallel calls, or either as JSON text; arguments too may be JSON text."""
    value = as_json(value, place)
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(call for item in value for call in to_calls(item, place))
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("a tool call names no function", f"`{place}`: the call is no object with `name` and `arguments`")
    arguments = as_json(function.get("arguments", function.get("parameters")), f"{place}: arguments")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        what = f"`{place}`: the arguments of `{function['name']}` are {kind_of(arguments)}, not a JSON object"
        raise RowError("arguments are no object", what)
    plain_json([function["name"], arguments], place)
    return (ToolCall(function["name"], arguments, str(value.get("id") or "")),)


def to_tools(value: Any, column: str) -> list[dict[str, Any]]:
    """Declared tools in OpenAI's form, keys in the file's order; from a list or JSON text. Blank means none."""
    value = as_json(value, column)
    if value is None:
        return []
    if not isinstance(value, (list, dict)):
        raise RowError("`tools` is no list", f"`{column}` is {kind_of(value)}; a list of functions is needed")
    found = []
    for number, tool in enumerate(value if isinstance(value, list) else [value]):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError("a tool has no name", f"`{column}[{number}]` is no function with a `name` (tools)")
        found.append({"type": "function", **tool} if "function" in tool else {"type": "function", "function": tool})
    plain_json(found, column)
    return found
