"""Rows longer than the context: refused, dropped, cut to whole turns, or split between turns. Never cut inside an answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from finery.data.ledger import TOO_LONG
from finery.errors import RowError
from finery.types import Example, Message, Sequence

if TYPE_CHECKING:
    from finery.data.render import Renderer

LETTERS_PER_TOKEN = 16  # a text with fewer letters for each token of the context is rendered without counting letters first

NOTHING_FITS = {"truncate": ", already with the first answer", "split": ", so is each question with its answer"}


@dataclass(frozen=True)
class Fitted:
    """The sequences of a row, all of which fit; `left_out` says what a cut did to it."""

    sequences: list[Sequence]
    left_out: str = ""


class Fitter:
    """Renders rows and makes them fit into the context by the policy of `on_too_long`."""

    def __init__(self, renderer: Renderer, tokenizer: Any, context: int, policy: str, last_turn_only: bool = False) -> None:
        self.renderer, self.tokenizer, self.context, self.policy = renderer, tokenizer, context, policy
        self.last_turn_only = last_turn_only
        self.longest_token = 0  # letters; 0: not looked up yet

    def fit(self, example: Example) -> Fitted:
        """The row's sequences. RowError where the template can't say it, or the policy leaves nothing of it."""
        messages = [*example.prompt, *(message for answer in example.answers for message in answer)]
        least = self.least_tokens(messages)
        if least <= self.context:
            sequences = self.renderer.render(example)
            tokens = max(len(sequence.ids) for sequence in sequences)
            if tokens <= self.context:
                return Fitted(sequences)
        if self.policy in ("truncate", "split") and len(example.answers) == 1:
            fitted = (self.truncate if self.policy == "truncate" else self.split)(example, messages)
            if fitted is not None:
                return fitted
        count = f"at least {least:,}" if least > self.context else f"{tokens:,}"
        raise RowError(TOO_LONG, f"{count} tokens, longer than context ({self.context}){NOTHING_FITS.get(self.policy, '')}")

    def least_tokens(self, messages: list[Message]) -> int:
        """A bound that needs no tokenizing: the longest text's letters over those of the longest token."""
        letters = max(max(len(text(message)), len(message.reasoning)) for message in messages)
        if letters <= LETTERS_PER_TOKEN * self.context:
            return 0
        if not self.longest_token:
            # a byte-level token has a letter for each byte in its name, so none holds more letters than its name
            self.longest_token = max(map(len, self.tokenizer.get_vocab()))
        return letters // self.longest_token

    def rendered(self, example: Example, messages: list[Message]) -> list[Sequence]:
        """The sequences of a shorter conversation; none where one does not fit."""
        if self.least_tokens(messages) > self.context:
            return []
        sequences = self.renderer.render(replace(example, prompt=messages[:-1], answers=[messages[-1:]]))
        return sequences if all(len(sequence.ids) <= self.context for sequence in sequences) else []

    def truncate(self, example: Example, messages: list[Message]) -> Fitted | None:
        """The longest beginning of whole turns that fits; what follows is left out, so no answer loses its end."""
        ends = [i + 1 for i, message in enumerate(messages) if message.role == "assistant" and message.weight]
        best, kept = None, 0
        low, high = 0, len(ends) - 2  # more turns never make it shorter, so halving finds the most that fit
        if self.last_turn_only:
            high = -1  # the turn that is learned is the one that would be cut off
        while low <= high:
            middle = (low + high) // 2
            if sequences := self.rendered(example, messages[: ends[middle]]):
                best, kept, low = sequences, middle + 1, middle + 1
            else:
                high = middle - 1
        return Fitted(best, f"{kept} of {len(ends)} answers kept") if best else None

    def split(self, example: Example, messages: list[Message]) -> Fitted | None:
        """Several conversations with the system turn; every answer is learned in one, after the earlier turns that fit.

        Earlier turns take at most half of a later part, so that most of what is computed is learned.
        """
        system = [message for message in messages[:1] if message.role == "system"]
        turns = exchanges(messages[len(system) :])
        parts: list[list[Sequence]] = []
        left_out = 0
        new = len(turns) - 1 if self.last_turn_only else 0
        while new < len(turns):
            if not any(message.role == "assistant" and message.weight for message in turns[new]):
                new += 1  # nothing to learn in it: it is context for the next
                continue
            part = self.rendered(example, joined(system, [], turns[new : new + 1]))
            if not part:
                left_out, new = left_out + 1, new + 1
                continue
            first, size = new, tokens_of(part)
            limit = self.context if self.last_turn_only else size + self.context // 2
            while first > 0:
                longer = self.rendered(example, joined(system, turns[first - 1 : new], turns[new : new + 1]))
                if not longer or tokens_of(longer) > limit:
                    break
                part, first = longer, first - 1
            end = new + 1
            while end < len(turns):
                longer = self.rendered(example, joined(system, turns[first:new], turns[new : end + 1]))
                if not longer:
                    break
                part, end = longer, end + 1
            parts.append(part)
            new = end
        if not parts:
            return None
        lost = f", {left_out} of {len(turns)} questions left out: too long by themselves" if left_out else ""
        count = "1 part" if len(parts) == 1 else f"{len(parts)} parts"
        return Fitted([sequence for part in parts for sequence in part], count + lost)


def exchanges(messages: list[Message]) -> list[list[Message]]:
    """The conversation cut before each question: a call, its result and the answer stay together."""
    found: list[list[Message]] = [[]]
    for message in messages:
        roles = {earlier.role for earlier in found[-1]}
        if message.role == "user" and {"user", "assistant"} <= roles:
            found.append([])
        found[-1].append(message)
    return found


def joined(system: list[Message], known: list[list[Message]], new: list[list[Message]]) -> list[Message]:
    """A conversation in which only the new exchanges are learned."""
    silent = [replace(m, weight=0.0) if m.role == "assistant" else m for exchange in known for m in exchange]
    return [*system, *silent, *(m for exchange in new for m in exchange)]


def tokens_of(sequences: list[Sequence]) -> int:
    return max(len(sequence.ids) for sequence in sequences)


def text(message: Message) -> str:
    return message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)
