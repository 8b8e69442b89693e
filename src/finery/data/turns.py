"""How a template writes an assistant's turn, learned by asking it; there is no registry of templates, nothing knows a model.

A turn's shape is told by the prompt P (with the generation prompt) and the answered text F:
  plain        F continues P: the model emits the rest.
  closed       P ends in a whole, empty thinking block that F leaves out: the model emits what F has after the role header.
  open         P ends inside a thinking block: the model emits reasoning, the block's end, the answer. What ends the block is
               read off a marked reasoning; where the template hides reasoning, `<x>` is ended by `</x>`.
  thought after an empty one   P ends in an empty thinking block where F has a thought: no mode lets the model begin it.
  without a header             F goes on without the role header of P: the model emits what F adds to the conversation before.
  written anew                 F writes what came before in another way (the system text moves, a line end goes): the model
                               emits what follows the end of P in F.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from os.path import commonprefix
from typing import Any, NamedTuple

from finery.data.encode import Encoder
from finery.data.said import lost_in_answer, lost_in_prompt
from finery.data.template import Dicts, Template
from finery.errors import RowError

MARK = "markofathought"  # stands in for a reasoning, to see where the template writes it
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")  # the names in use: templates read one of them
INLINE = "<think>"  # how a text begins that a thought is written into
PARTS = "parts"  # or a part of the content, of the type `thinking`
MARKER = r"<[^<>\s]{1,60}>|\[/?[A-Z][A-Z_ ]{1,30}\]"  # what templates mark blocks with, where the vocabulary does not have it


class Way(NamedTuple):
    """How a kind of turn is written."""

    mode: bool | None  # of thinking
    key: str  # under which the template reads a reasoning
    shape: str
    prefill: str  # what the prompt holds of an answer that the answered text leaves out
    stops: int  # stop tokens before the one that ends the answer; -1: none ends it
    implied: str  # the stop token that the answer then ends with


class Turn(NamedTuple):
    """What a server sends and what must come back, stop token included; `full` is the conversation once it is answered."""

    prompt: str
    answer: str
    full: str
    way: Way


class Asked(NamedTuple):
    """What the template was asked about a turn, and the answers."""

    before: Dicts
    answered: dict[str, Any]
    key: str
    reasoning: str
    tools: Dicts
    mode: bool | None
    prompt: str
    full: str


class Unsaid(Exception):
    """A template has no place for something that a turn says. `lost` names it; "" where the template raises."""

    def __init__(self, why: str, lost: bool) -> None:
        super().__init__(why)
        self.why, self.lost = why, lost


class Asking:
    """Finds prompt and answer of turns by asking a template. `stops`: the texts of the tokens that end a turn."""

    def __init__(self, template: Template, encoder: Encoder, stops: list[str], eos: str) -> None:
        self.ask = template.ask
        self.encoder = encoder
        self.marker = re.compile(f"{encoder.control.pattern}|{MARKER}" if encoder.control else MARKER)
        self.stop = re.compile("|".join(map(re.escape, sorted(stops, key=len, reverse=True))))
        self.eos = eos

    def turn(self, given: Dicts, i: int, tools: Dicts, context: Collection[int], way: Way | None = None) -> Turn:
        """Prompt and answer of assistant message i, in the first thinking mode and shape that say all of it, or in a known way.

        `context`: assistant turns that are never trained, so that the prompt must show what they say. Raises Unsaid.
        """
        before, message = given[:i], given[i]
        reasoning = message.get("reasoning_content", "")
        why, was_lost = "", True
        modes = (None, True) if thinks(message) else (False, None, True)
        for mode in modes if way is None else (way.mode,):
            try:
                prompt = self.ask(before, tools, True, mode)
                if lost := lost_in_prompt(prompt, before, tools, context):
                    why = why or lost
                    continue
                keys = (*REASONING_KEYS, PARTS) if reasoning else REASONING_KEYS[:1]
                for key in keys if way is None else (way.key,):
                    answered = with_reasoning(message, key, reasoning)
                    full = self.ask([*before, answered], tools, False, mode)
                    asked = Asked(before, answered, key, reasoning, tools, mode, prompt, full)
                    for shape, prefill, answer in self.shapes(asked, way):
                        if way is not None and way.shape != shape:
                            continue
                        lost = lost_in_answer(answer, message, reasoning)
                        if lost or (key == PARTS and not self.sets_apart(answer, message, reasoning)):
                            why = why or lost or "the reasoning goes missing"
                            continue
                        end, stops, implied = self.end(answer, given, i, tools, mode, reasoning, way)
                        found = way or Way(mode, key, shape, prefill, stops, implied)
                        return Turn(prompt, answer[:end] + found.implied, full, found)
            except RowError as error:
                was_lost = was_lost and bool(why)
                why = why or error.what
        raise Unsaid(why or "it rewrites the turn once answered", was_lost and bool(why))

    def asked(self, given: Dicts, i: int, way: Way) -> tuple[str, str]:
        """(prompt, answered text) of assistant message i of a conversation without tools, in a known way."""
        answered = with_reasoning(given[i], way.key, given[i].get("reasoning_content", ""))
        return self.ask(given[:i], [], True, way.mode), self.ask([*given[:i], answered], [], False, way.mode)

    def shapes(self, asked: Asked, way: Way | None) -> Iterator[tuple[str, str, str]]:
        """(shape, prefill, what the model would have to emit after the prompt) of each shape that fits."""
        prompt, full = asked.prompt, asked.full
        opened = re.search(r"<(\w+)>\s*$", prompt[-100:])
        close = f"\n</{opened[1]}>\n\n" if opened else ""
        if full.startswith(prompt):
            rest = full[len(prompt) :]
            if opened and f"</{opened[1]}>" not in rest and self.hides(asked):
                yield "open, hidden", "", asked.reasoning + close + rest
                return
            yield "plain", "", rest
            if opened and asked.reasoning and rest.startswith(close.strip()):
                yield "open, empty", "", asked.reasoning + rest
            return
        shared = self.shared(prompt, full, way)
        prefill, rest = prompt[shared:], full[shared:]
        markers = self.markers(prefill)
        if len(markers) >= 2 and not asked.reasoning and not self.repeated(markers[0], rest, asked):
            yield "closed", prefill, rest.removeprefix(markers[-1])
        if prefill and len(markers) <= 1 and not any("/" in m for m in markers):
            thought = with_reasoning(asked.answered, asked.key, MARK)
            marked = self.ask([*asked.before, thought], asked.tools, False, asked.mode)
            if MARK in marked:
                yield "open", prefill, asked.reasoning + marked.split(MARK, 1)[1]
            elif opened:
                yield "open, hidden", prefill, asked.reasoning + close + rest
        history = self.ask(asked.before, asked.tools, False, asked.mode)
        if shared <= len(history) and prompt.startswith(history) and full.startswith(history):
            yield "without a header", prefill, full[len(history) :]
        if asked.reasoning and (block := self.empty_block(prompt)) >= 0 and full.startswith(prompt[:block]):
            yield "thought after an empty one", prefill, full[block:]
        heads = [found.start() for found in self.marker.finditer(prompt)][-1:]
        parts = full.split(prompt[heads[0] :]) if heads else []
        for number in range(len(parts) - 1, 0, -1):  # from the last: what is said before is the conversation's
            yield "written anew", prefill, prompt[heads[0] :].join(parts[number:])

    def hides(self, asked: Asked) -> bool:
        """Whether history leaves out what the prompt ends with: then it opens a thought, else it is the role header."""
        following = {"role": "user", "content": "."}
        history = self.ask([*asked.before, asked.answered, following], asked.tools, False, asked.mode)
        return not history.startswith(asked.prompt)

    def empty_block(self, prompt: str) -> int:
        """Where the empty thinking block begins that a prompt ends in; -1 where there is none."""
        markers = list(self.marker.finditer(prompt))[-2:]
        if len(markers) < 2 or markers[1][0] != f"</{markers[0][0][1:]}" or prompt[markers[1].end() :].strip():
            return -1
        return -1 if prompt[markers[0].end() : markers[1].start()].strip() else markers[0].start()

    def repeated(self, marker: str, rest: str, asked: Asked) -> bool:
        """Whether a marker of the prompt comes again before what the answered turn says: then it begins no empty block."""
        said = [asked.answered["content"], *(call["function"]["name"] for call in asked.answered.get("tool_calls", ()))]
        begins = [rest.find(text.strip()) for text in said if text.strip()]
        return marker in rest[: min((begin for begin in begins if begin >= 0), default=len(rest))]

    def shared(self, prompt: str, full: str, way: Way | None) -> int:
        """Letters that two texts share from the beginning, up to a border between tokens in both."""
        if way is not None and way.prefill and prompt.endswith(way.prefill):
            shared = len(prompt) - len(way.prefill)
            if full.startswith(prompt[:shared]):
                return shared
        same = len(commonprefix([prompt, full]))  # noqa: RUF071
        both = set(self.encoder.token_ends(prompt)) & set(self.encoder.token_ends(full))
        end = max((end for end in both if end <= same), default=0)
        inside = [m.start() for text in (prompt, full) for m in self.marker.finditer(text) if m.start() < end < m.end()]
        return min(inside, default=end)

    def end(
        self, answer: str, given: Dicts, i: int, tools: Dicts, mode: bool | None, reasoning: str, way: Way | None
    ) -> tuple[int, int, str]:
        """(letters of the answer up to its end, stop tokens before the one that ends it, the stop token to be put there).

        Texts hold no stop token (stand-ins do), so the number of those within an answer is the same for all turns of a kind.
        """
        stops = list(self.stop.finditer(answer))
        for number, stop in enumerate(stops):
            if number == way.stops if way else not lost_in_answer(answer[: stop.start()], given[i], reasoning):
                return stop.end(), number, ""
        return len(answer), -1, "" if way else self.implied_stop(given, i, tools, mode)

    def implied_stop(self, given: Dicts, i: int, tools: Dicts, mode: bool | None) -> str:
        """A turn that the next role's marker closes (GLM): the template is asked for that marker; else the tokenizer's eos."""
        following = given[i + 1] if i + 1 < len(given) else {"role": "user", "content": "."}
        bare = [*given[:i], {k: v for k, v in given[i].items() if k not in REASONING_KEYS}]
        try:
            longer = self.ask([*bare, following], tools, False, mode)
            closed = longer[len(self.ask(bare, tools, False, mode)) :]
        except RowError:
            return self.eos
        stop = self.stop.match(closed)
        return stop[0] if stop else self.eos

    def sets_apart(self, answer: str, message: dict[str, Any], reasoning: str) -> bool:
        """Whether a thought given as a content part stands in a block of its own: some templates print parts as they are."""
        _, _, after = answer.partition(reasoning)
        between = after[: after.find(message["content"])] if message["content"] else after
        return bool(self.markers(between)) and "type" not in between

    def markers(self, text: str) -> list[str]:
        """The markers of blocks in a text: `<think>`, `[/THINK]`."""
        return [found[0] for found in self.marker.finditer(text) if found[0][0] in "<[" and found[0][-1] in ">]"]


def thinks(message: dict[str, Any]) -> bool:
    """Whether a turn begins with a thought, of its own or written into its text."""
    return bool(message.get("reasoning_content")) or message["content"].startswith(INLINE)


def with_reasoning(message: dict[str, Any], key: str, text: str) -> dict[str, Any]:
    """The message with its reasoning under the key that a template reads."""
    bare = {k: v for k, v in message.items() if k not in REASONING_KEYS}
    if key == PARTS and text:
        said = [{"type": "text", "text": message["content"]}] if message["content"] else []
        return {**bare, "content": [{"type": "thinking", "thinking": text}, *said]}
    return {**bare, key: text} if text else bare
