"""Messages in the shapes that data sets have them, made into types.Message: OpenAI, ShareGPT, content parts, tool calls."""

from __future__ import annotations

import json
from typing import Any

from finery.data.sources import kind_of, loads
from finery.errors import RowError
from finery.types import Message, ToolCall

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
MEDIA = ("image", "image_url", "video", "video_url", "audio", "audio_url", "input_audio", "input_image")


def to_messages(value: Any, column: str) -> list[Message]:
    """A list of messages; RowError says which one is wrong, and how."""
    if isinstance(value, str):
        value = parsed(value, column)
    if not isinstance(value, list):
        raise RowError(f"`{column}` is not a list", f"`{column}` is a {kind_of(value)}, a list of messages is needed")
    return [to_message(item, f"{column}[{number}]") for number, item in enumerate(value)]


def to_message(item: Any, place: str) -> Message:
    """One message of any known shape. null means absent everywhere."""
    if not isinstance(item, dict):
        raise RowError("a message is not an object", f"{place} is a {kind_of(item)}")
    given = {k: v for k, v in item.items() if v is not None}
    name = given.get("role", given.get("from"))
    if not isinstance(name, str) or name.lower() not in ROLES:
        known = ", ".join(ROLES)
        raise RowError("a role is not known", f"{place} has the role {name!r}", way_out=f"roles that are known: {known}")
    role = ROLES[name.lower()]
    weight = weight_of(given, place)
    content = given.get("content", given.get("value", ""))
    if name.lower() in ("function_call", "tool_call"):
        return Message(role, "", tool_calls=calls_from(content, place), weight=weight)
    text, reasoning, calls = parts_of(content, place)
    for key in REASONING_KEYS:
        if given.get(key):
            reasoning = text_of(given[key], f"{place}.{key}")
    calls += tuple(call for raw in as_list(given.get("tool_calls"), place) for call in calls_from(raw, place))
    if role == "assistant" and not reasoning:
        reasoning, text = split_thought(text)
    return Message(
        role,
        text,
        reasoning if role == "assistant" else "",
        calls,
        weight,
        str(given.get("name", "")) if role == "tool" else "",
        str(given.get("tool_call_id", "")) if role == "tool" else "",
    )


def weight_of(given: dict[str, Any], place: str) -> float:
    """How much a turn counts in the loss: `weight`, `loss_weight`, or `train: false`."""
    value = given.get("weight", given.get("loss_weight", given.get("train", 1.0)))
    if not isinstance(value, (bool, int, float)) or value < 0:
        raise RowError("a weight is not a number from 0", f"{place} has the weight {value!r}")
    return float(value)


def parts_of(content: Any, place: str) -> tuple[str, str, tuple[ToolCall, ...]]:
    """(text, reasoning, calls) of a content that is text or a list of parts."""
    if isinstance(content, str):
        return content, "", ()
    if not isinstance(content, list):
        way_out = "put the text in quotes"
        raise RowError(
            f"a message's content is a {kind_of(content)}",
            f"{place}.content is a {kind_of(content)}, not text",
            way_out=way_out,
        )
    text, reasoning, calls = [], [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        value = next((part[k] for k in ("text", "value", "content", "thinking") if part.get(k) is not None), "") if kind else ""
        if kind in MEDIA:
            raise RowError("holds media", f"{place} holds an {kind}: this model takes no images, video or audio")
        if kind in ("text", "input_text", "output_text"):
            text.append(text_of(value, place))
        elif kind in ("reasoning", "thinking"):
            reasoning.append(text_of(value, place))
        elif kind in ("tool_call", "function"):
            calls += calls_from(value or part, place)
        else:
            raise RowError("a content part is not known", f"{place} has a part of type {kind!r}")
    return "".join(text), "".join(reasoning), tuple(calls)


def text_of(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"a text is a {kind_of(value)}", f"{place} is a {kind_of(value)}, not text", way_out="put it in quotes")
    return value


def split_thought(text: str) -> tuple[str, str]:
    """(thought, answer) of an answer that begins with a whole <think> block."""
    head = text.lstrip()
    if head.startswith("<think>") and "</think>" in head:
        thought, answer = head.removeprefix("<think>").split("</think>", 1)
        return thought.strip("\n"), answer.lstrip("\n")
    return "", text


# --- tools -------------------------------------------------------------------------------------------------------------------


def calls_from(value: Any, place: str) -> tuple[ToolCall, ...]:
    """Tool calls as an object, a list of them, or either as JSON text; arguments as an object or as JSON text."""
    if isinstance(value, str):
        value = parsed(value, place)
    if isinstance(value, list):
        return tuple(call for item in value for call in calls_from(item, place))
    if not isinstance(value, dict):
        raise RowError("a tool call is not an object", f"{place}: the call is a {kind_of(value)}")
    function = value.get("function", value)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("a tool call has no name", f"{place}: the call names no function")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = parsed(arguments, f"{place}: arguments of {function['name']}") if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise RowError("a call's arguments are not an object", f"{place}: arguments are a {kind_of(arguments)}")
    return (ToolCall(function["name"], arguments, str(value.get("id") or "")),)


def to_tools(value: Any) -> list[dict[str, Any]]:
    """Declared tools in OpenAI's form; from a list or JSON text; blank means none."""
    if isinstance(value, str):
        value = parsed(value, "tools") if value.strip() else None
    if value is None:
        return []
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise RowError("`tools` is not a list", f"`tools` is a {kind_of(value)}, a list of functions is needed")
    found = []
    for number, tool in enumerate(value):
        if not isinstance(tool, dict):
            raise RowError("a tool is not an object", f"`tools[{number}]` is a {kind_of(tool)}")
        function = tool.get("function", tool)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError("a tool has no name", f"`tools[{number}]` names no function")
        found.append(tool if "function" in tool else {"type": "function", "function": tool})
    return found


def as_list(value: Any, place: str) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str):
        value = parsed(value, place)
    return value if isinstance(value, list) else [value]


def parsed(text: str, place: str) -> Any:
    """JSON that stands in a text."""
    try:
        return loads(text)
    except ValueError as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise RowError(
            f"`{place.split('[')[0].split(':')[0]}` is not JSON", f"{place} is text that is not JSON: {what}"
        ) from None
