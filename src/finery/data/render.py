"""From an Example to training sequences with an exact loss mask, by asking the model's own chat template.

A token is trained if and only if the model must emit it after the prompt that a server would send for that turn. What a kind of
conversation looks like is asked once, of its twin made of marks (marked.py); a row then costs two renders for each of its
sequences, or two for each turn where its texts or tools could change what the template writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from finery.data.encode import Encoder, restore
from finery.data.marked import NAME, Learned, cut, fill, kind_of, twin
from finery.data.template import CHATML_END, WAYS_OUT, Dicts, Template
from finery.data.turns import INLINE, Asking, Turn, Unsaid, thinks
from finery.errors import ModelError, RowError
from finery.types import Example, Message, Sequence

KEPT_KINDS = 1000  # kinds of conversations that are remembered


class Renderer:
    """A tokenizer with its chat template. `source`: the Jinja text; `stop_ids`: tokens that end a turn; `mode_seen`: the
    thinking modes of trained turns, with a thought (`thinking`) and without one (`plain`)."""

    def __init__(
        self,
        tokenizer: Any,
        stop_ids: Iterable[int],
        template: str | None = None,
        reasoning: str = "keep",
        last_turn_only: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = Template(tokenizer, template)
        self.source = self.template.source
        self.reasoning = reasoning
        self.last_turn_only = last_turn_only
        self.encoder = Encoder(tokenizer)
        own_end = [tokenizer.get_added_vocab().get(CHATML_END)] if template == "chatml" else []
        known = [*own_end, *stop_ids, tokenizer.eos_token_id]
        self.stop_ids = list(dict.fromkeys(int(i) for i in known if i is not None))
        stops = [text for text in (tokenizer.decode([i]) for i in self.stop_ids) if text]
        if not stops:
            raise ModelError(
                "the tokenizer has no end token: a model trained with it could not stop", way_out="set its eos_token"
            )
        self.asking = Asking(self.template, self.encoder, stops, tokenizer.eos_token or stops[0])
        self.learned: dict[Any, Learned] = {}
        self.mode_seen: dict[str, bool | None] = {}

    # --- what others ask -------------------------------------------------------------------------------------------------

    def render(self, example: Example) -> list[Sequence]:
        """The sequences of a row: each answer is trained exactly once, in the context that a server would send.

        RowError where the template can't say what the row says, with the way out.
        """
        found: list[Sequence] = []
        for number, answer in enumerate(example.answers or [[]]):
            messages = [*example.prompt, *answer]
            trained = self.trained_turns(example, messages)
            if not trained:
                raise RowError("no answer to learn", "this row has no assistant turn to learn: no answer", example.origin)
            for sequence in self.sequences(messages, example.tools, trained, example.origin):
                sequence.answer = number
                found.append(sequence)
        return found

    def prompt(self, messages: list[Message], tools: Iterable[dict[str, Any]] = (), thinking: bool | None = None) -> list[int]:
        """The ids that chat and serve send for the next answer, as in training.

        `thinking`: whether the answer shall begin with a thought; None: as the turns that were trained.
        """
        if thinking is None:
            mode = self.mode_seen.get("plain", self.mode_seen.get("thinking"))
        else:
            mode = self.mode_seen.get("thinking" if thinking else "plain", thinking)
        table: dict[str, str] = {}
        given = [self.as_dict(m, table) for m in messages]
        return self.encoder.encode(self.template.ask(given, self.as_tools(tools, table), True, mode), table)

    # --- turns -------------------------------------------------------------------------------------------------------------

    def trained_turns(self, example: Example, messages: list[Message]) -> list[int]:
        """Indices of the assistant turns that carry loss."""
        first = len(example.prompt) if len(example.answers) > 1 else 0
        turns = [i for i, m in enumerate(messages) if i >= first and m.role == "assistant" and m.weight > 0]
        return turns[-1:] if self.last_turn_only else turns

    def sequences(self, messages: list[Message], tools: Dicts, trained: list[int], origin: str) -> Iterator[Sequence]:
        """One sequence while contexts continue each other, a new one where the template rewrites history."""
        table: dict[str, str] = {}
        given = [self.as_dict(m, table) for m in messages]
        turns = self.turns(given, self.as_tools(tools, table), trained, origin, table)
        for i, turn in zip(trained, turns, strict=True):
            self.mode_seen.setdefault("thinking" if thinks(given[i]) else "plain", turn.way.mode)
        weights = [messages[i].weight for i in trained]
        for chain in chains(turns):
            yield from self.encoded(chain, weights[: len(chain)], table, origin)
            del weights[: len(chain)]

    def turns(self, given: Dicts, tools: Dicts, trained: list[int], origin: str, table: dict[str, str]) -> list[Turn]:
        """Prompt and answer of each trained turn. RowError where the template has no place for what one of them says."""
        learned = self.learn(given, tools, trained)
        if learned.lost:
            raise self.unsaid(learned.lost, given, learned.lost_turn, origin, table)
        if learned.pieces and (filled := self.filled(learned, given, trained)):
            return filled
        context = {i for i, m in enumerate(given) if m["role"] == "assistant"}.difference(trained)
        found = []
        for i, way in zip(trained, learned.ways, strict=True):
            try:
                found.append(self.asking.turn(given, i, tools, context, way))
            except Unsaid:
                try:
                    found.append(self.asking.turn(given, i, tools, context))
                except Unsaid as error:
                    raise self.unsaid(error.why, given, i, origin, table) from None
        return found

    def learn(self, given: Dicts, tools: Dicts, trained: list[int]) -> Learned:
        """What is known about this kind of conversation; asked where nothing is known yet."""
        kind = (kind_of(given, tools), tuple(trained))
        if kind not in self.learned:
            if len(self.learned) >= KEPT_KINDS:
                self.learned.clear()
            self.learned[kind] = self.asked(*twin(given, tools), trained, names_of(given, tools))
        return self.learned[kind]

    def asked(self, marked: Dicts, tools: Dicts, trained: list[int], names: list[str]) -> Learned:
        """What the template does with a conversation of marks. Where it raises (at a mark?) nothing is learned of that turn."""
        context = {i for i, m in enumerate(marked) if m["role"] == "assistant"}.difference(trained)
        turns: list[Turn | None] = []
        for i in trained:
            try:
                turns.append(self.asking.turn(marked, i, tools, context))
            except Unsaid as error:
                if error.lost:
                    return Learned([], None, error.why.replace(NAME, names[0] if names else NAME), i)
                turns.append(None)
        texts_only = not tools and not any("tool_calls" in message or "name" in message for message in marked)
        whole = [turn for turn in turns if turn]
        fits = texts_only and len(trained) > 1 and len(whole) == len(turns)
        return Learned([turn and turn.way for turn in turns], [cut(turn) for turn in whole] if fits else None)

    def filled(self, learned: Learned, given: Dicts, trained: list[int]) -> list[Turn] | None:
        """The turns made from those of marks, where the template writes just that for the last one of each sequence."""
        texts = [text for message in given for text in (message["content"], message.get("reasoning_content", "")) if text]
        if any(text != text.strip() or text.startswith(INLINE) or self.template.looks_for(text) for text in texts):
            return None
        made = []
        for pieces, way in zip(learned.pieces or (), learned.ways, strict=True):
            assert way is not None
            prompt, answer, full = (fill(pattern, given) for pattern in pieces)
            made.append(Turn(prompt, answer, full, way))
        last = -1
        for chain in chains(made):
            last += len(chain)
            if self.asking.asked(given, trained[last], chain[-1].way) != (chain[-1].prompt, chain[-1].full):
                return None
        return made

    def unsaid(self, why: str, given: Dicts, i: int, origin: str, table: dict[str, str]) -> RowError:
        ways_out = f"reasoning: inline or drop, {WAYS_OUT}" if "reasoning_content" in given[i] else WAYS_OUT
        what = f"message {i}: this template can't say it: {restore(why, table)}"
        return RowError("the template can't say it", what, origin, ways_out)

    # --- ids ---------------------------------------------------------------------------------------------------------------

    def encoded(self, chain: list[Turn], weights: list[float], table: dict[str, str], origin: str) -> Iterator[Sequence]:
        """Turns whose texts continue each other, encoded in one go where that gives each prompt its own ids."""
        text = chain[-1].prompt + chain[-1].answer
        borders = [border for turn in chain for border in (len(turn.prompt), len(turn.prompt) + len(turn.answer))]
        found = None if table else self.encoder.with_borders(text, borders)
        if found is None:
            yield from self.encoded_singly(chain, weights, table, origin)
            return
        ids, counts = found
        loss = np.zeros(len(ids), np.float32)
        for weight, begin, end in zip(weights, counts[::2], counts[1::2], strict=True):
            self.check_end(ids[begin:end], origin)
            loss[begin:end] = weight
        yield Sequence(np.array(ids, np.int32), loss)

    def encoded_singly(self, chain: list[Turn], weights: list[float], table: dict[str, str], origin: str) -> Iterator[Sequence]:
        """Turn after turn: a prompt whose ids do not continue the sequence starts a new one."""
        ids: list[int] = []
        loss: list[float] = []
        for turn, weight in zip(chain, weights, strict=True):
            prompt = self.encoder.encode(turn.prompt, table)
            if prompt[: len(ids)] != ids:
                yield Sequence(np.array(ids, np.int32), np.array(loss, np.float32))
                ids, loss = [], []
            answer = self.answer_ids(turn, prompt, table, origin)
            loss += [0.0] * (len(prompt) - len(ids)) + [weight] * len(answer)
            ids = prompt + answer
        yield Sequence(np.array(ids, np.int32), np.array(loss, np.float32))

    def answer_ids(self, turn: Turn, prompt: list[int], table: dict[str, str], origin: str) -> list[int]:
        """Ids of the answer after the prompt's: encoded together, or alone where a token would straddle the border."""
        together = self.encoder.encode(turn.prompt + turn.answer, table)
        if together[: len(prompt)] == prompt:
            answer = together[len(prompt) :]
        else:
            answer = self.encoder.encode(turn.answer, table, after=prompt)
            if not self.encoder.continues(prompt, answer, restore(turn.answer, table)):
                raise RowError("an answer can't be encoded by itself", "the tokenizer changes this answer's text", origin)
        self.check_end(answer, origin)
        return answer

    def check_end(self, answer: list[int], origin: str) -> None:
        if not answer or answer[-1] not in self.stop_ids:
            what = "the template ends this answer with no token that stops the model"
            raise RowError("an answer has no end", what, origin, WAYS_OUT)

    # --- as templates read it ------------------------------------------------------------------------------------------------

    def as_dict(self, message: Message, table: dict[str, str]) -> dict[str, Any]:
        """A message as templates read it, control strings replaced by stand-ins."""

        def protect(text: str) -> str:
            return self.encoder.protect(text, table)

        content = protect(text_of(message))
        if message.reasoning and self.reasoning == "inline":
            content = f"{INLINE}\n{protect(message.reasoning)}\n</think>\n\n{content}"
        found: dict[str, Any] = {"role": message.role, "content": content}
        if message.reasoning and self.reasoning == "keep":
            found["reasoning_content"] = protect(message.reasoning)
        if message.tool_calls:
            found["tool_calls"] = [
                {
                    "type": "function",
                    **({"id": call.id} if call.id else {}),
                    "function": {"name": protect(call.name), "arguments": protected(call.arguments, protect)},
                }
                for call in message.tool_calls
            ]
        if message.role == "tool":
            found |= {k: protect(v) for k, v in (("name", message.name), ("tool_call_id", message.tool_call_id)) if v}
        return found

    def as_tools(self, tools: Iterable[dict[str, Any]], table: dict[str, str]) -> Dicts:
        """Declared tools, control strings replaced by stand-ins."""
        return [protected(tool, lambda text: self.encoder.protect(text, table)) for tool in tools]


# --- small parts -----------------------------------------------------------------------------------------------------------


def chains(turns: list[Turn]) -> list[list[Turn]]:
    """Runs of turns whose prompts continue what was said before, in text."""
    found: list[list[Turn]] = []
    for turn in turns:
        if found and turn.prompt.startswith(found[-1][-1].prompt + found[-1][-1].answer):
            found[-1].append(turn)
        else:
            found.append([turn])
    return found


def names_of(given: Dicts, tools: Dicts) -> list[str]:
    """The names of tools that a conversation declares or calls."""
    called = (call["function"]["name"] for message in given for call in message.get("tool_calls", ()))
    return [*(tool["function"]["name"] for tool in tools), *called]


def text_of(message: Message) -> str:
    return message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)


def protected(value: Any, protect: Callable[[str], str]) -> Any:
    """Every text in a JSON value, protected."""
    if isinstance(value, str):
        return protect(value)
    if isinstance(value, dict):
        return {protect(k): protected(v, protect) for k, v in value.items()}
    if isinstance(value, list):
        return [protected(v, protect) for v in value]
    return value
