"""Rows longer than the context: refused, dropped, cut to whole turns, or split between turns. Never cut inside an answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from finery.errors import RowError
from finery.types import Example, Message, Sequence

if TYPE_CHECKING:
    from finery.data.render import Renderer


class TooLong(RowError):
    """A row that does not fit into the context."""

    REASON = "longer than context"

    def __init__(self, what: str) -> None:
        super().__init__(self.REASON, what)


@dataclass
class Fitted:
    """The sequences of a row that fit; `cut` says under which name the ledger lists it where something was left out."""

    sequences: list[Sequence]
    cut: str = ""
    what: str = ""


class LongestToken:
    """How many letters a token can hold at most: a text of n letters has at least n / that many tokens."""

    def __init__(self, tokenizer: Any) -> None:
        # a byte-level token's name has a letter for each byte, so this never underestimates what a token holds
        self.letters = max((len(name) for name in tokenizer.get_vocab()), default=1)

    def least_tokens(self, text: str) -> int:
        return len(text) // self.letters


def fit(example: Example, renderer: Renderer, longest: LongestToken, context: int, policy: str) -> Fitted:
    """The sequences of a row, each at most `context` tokens. TooLong where the policy leaves nothing of it."""
    texts = [len_of(m) for m in [*example.prompt, *(m for answer in example.answers for m in answer)]]
    least = sum(texts) // longest.letters
    if least > context and policy in ("error", "drop"):
        raise TooLong(f"this row has at least {least} tokens, context is {context}")
    if least <= context:
        sequences = renderer.render(example)
        tokens = max((len(s.ids) for s in sequences), default=0)
        if tokens <= context:
            return Fitted(sequences)
        if policy in ("error", "drop"):
            raise TooLong(f"this row has {tokens} tokens, context is {context}")
    if len(example.answers) != 1:
        raise TooLong(f"this row is longer than context ({context} tokens) and has answers to compare: it can't be cut")
    return (truncate if policy == "truncate" else split)(example, renderer, longest, context)


def truncate(example: Example, renderer: Renderer, longest: LongestToken, context: int) -> Fitted:
    """The most whole turns from the beginning that fit."""
    messages = [*example.prompt, *example.answers[0]]
    ends = [i + 1 for i, m in enumerate(messages) if m.role == "assistant"]
    best: Fitted | None = None
    low, high = 0, len(ends) - 1  # more turns never make a row shorter, so halving finds the most that fit
    while low <= high:
        middle = (low + high) // 2
        sequences = fitting(example, messages[: ends[middle]], renderer, longest, context)
        if sequences:
            best = Fitted(sequences, "truncated", f"{middle + 1} of {len(ends)} answers kept")
            low = middle + 1
        else:
            high = middle - 1
    if best is None:
        raise TooLong(f"the first answer of this row does not fit into context ({context} tokens) with what it answers")
    return best


def split(example: Example, renderer: Renderer, longest: LongestToken, context: int) -> Fitted:
    """Several sequences, each with the system turn and as many whole exchanges as fit; each exchange is learned once."""
    messages = [*example.prompt, *example.answers[0]]
    system = [m for m in messages[:1] if m.role == "system"]
    exchanges = exchanges_of(messages[len(system) :])
    found: list[Sequence] = []
    lost = parts = i = 0
    while i < len(exchanges):
        end = i
        sequences: list[Sequence] = []
        while end < len(exchanges):
            longer = fitting(example, joined(system, [], exchanges[i : end + 1]), renderer, longest, context)
            if not longer:
                break
            sequences, end = longer, end + 1
        if end == i:
            lost += 1
            i += 1
            continue
        start = i
        while start > 0:  # earlier exchanges as context, as many as fit
            before = joined(system, exchanges[start - 1 : i], exchanges[i:end])
            longer = fitting(example, before, renderer, longest, context)
            if not longer:
                break
            sequences, start = longer, start - 1
        found += sequences
        parts += 1
        i = end
    if not found:
        raise TooLong(f"no exchange of this row fits into context ({context} tokens)")
    what = f"{parts} parts" + (f", {lost} of {len(exchanges)} exchanges too long by themselves and left out" if lost else "")
    return Fitted(found, "split", what)


def fitting(
    example: Example, messages: list[Message], renderer: Renderer, longest: LongestToken, context: int
) -> list[Sequence]:
    """The rendered sequences, or none where one is longer than the context."""
    if sum(map(len_of, messages)) // longest.letters > context:
        return []
    if not any(m.role == "assistant" and m.weight for m in messages):
        return []
    sequences = renderer.render(replace(example, prompt=messages[:-1], answers=[messages[-1:]]))
    return sequences if all(len(s.ids) <= context for s in sequences) else []


def exchanges_of(messages: list[Message]) -> list[list[Message]]:
    """A question with all that follows until the next question: tool calls and their results stay together."""
    found: list[list[Message]] = []
    for message in messages:
        if not found or (message.role == "user" and any(m.role == "assistant" for m in found[-1])):
            found.append([])
        found[-1].append(message)
    return [exchange for exchange in found if any(m.role == "assistant" for m in exchange)]


def joined(system: list[Message], known: list[list[Message]], new: list[list[Message]]) -> list[Message]:
    """A conversation in which only the new exchanges are learned."""
    silent = [replace(m, weight=0.0) if m.role == "assistant" else m for exchange in known for m in exchange]
    return [*system, *silent, *(m for exchange in new for m in exchange)]


def len_of(message: Message) -> int:
    """Letters of a message's texts."""
    content = message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)
    return len(content) + len(message.reasoning)
