"""From an Example to training sequences with an exact loss mask, by asking the model's own chat template.

A token is trained if and only if the model must emit it after the prompt that a server would send for that turn. What a
template writes is learned by asking it; there is no registry of templates, and nothing here knows a model.

A turn has one of three shapes, told apart by the prompt P (with the generation prompt) and the answered text F:
  plain     F continues P: the model emits the rest.
  closed    P ends in a whole, empty thinking block that F leaves out: the model emits F after the role header.
  open      P ends inside a thinking block: the model emits reasoning, the block's end, the answer.
Where the turn is written without a role header, or the system text moves once there is an answer, the template is asked without
them what it writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finery.data.encode import Encoder, restore
from finery.data.said import end_of_said, lost_in_answer, lost_in_prompt
from finery.errors import ConfigError, ModelError, RowError
from finery.types import Example, Message, Sequence

MARK = "markofathought"  # stands in for a reasoning, to see where the template writes it
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")  # the names in use: templates read one of them
PARTS = "parts"  # or a part of the content, of the type `thinking`
THINKING = {True: {"enable_thinking": True, "thinking": True}, False: {"enable_thinking": False, "thinking": False}, None: {}}
CHATML = Path(__file__).with_name("chatml.jinja")
WAYS_OUT = "template: FILE.jinja, or template: chatml"


class Turn(NamedTuple):
    """What a server sends and what must come back, stop token included."""

    prompt: str
    answer: str


class Renderer:
    """A tokenizer with its chat template. `stop_ids`: tokens that end a turn; `mode_seen`: thinking modes of trained turns."""

    def __init__(
        self,
        tokenizer: Any,
        stop_ids: Iterable[int],
        template: str | None = None,
        reasoning: str = "keep",
        last_turn_only: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.source = template_source(tokenizer, template)
        self.reasoning = reasoning
        self.last_turn_only = last_turn_only
        self.encoder = Encoder(tokenizer)
        self.eos = tokenizer.eos_token or ""
        known = [*stop_ids, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])]
        self.stop_ids = list(dict.fromkeys(int(i) for i in known))
        if not self.stop_ids:
            raise ModelError(
                "the tokenizer has no end token: a model trained with it could not stop", way_out="set its eos_token"
            )
        self.stops = [text for text in (tokenizer.decode([i]) for i in self.stop_ids) if text]
        self.mode_seen: dict[str, bool | None] = {}

    # --- what others ask -------------------------------------------------------------------------------------------------

    def render(self, example: Example) -> list[Sequence]:
        """The sequences of a row: each answer is trained exactly once, in the context that a server would send.

        RowError where the template can't say what the row says, with the way out.
        """
        found: list[Sequence] = []
        for number, answer in enumerate(example.answers):
            messages = [*example.prompt, *answer]
            trained = self.trained_turns(example, messages)
            if not trained:
                raise RowError("no answer to learn", "this row has no assistant turn to learn: no answer", example.origin)
            for sequence in self.sequences(messages, example.tools, trained, example.origin):
                sequence.answer = number
                found.append(sequence)
        return found

    def prompt(self, messages: list[Message], tools: Iterable[dict[str, Any]] = (), thinking: bool | None = None) -> list[int]:
        """The ids that chat and serve send for the next answer. `thinking` None: the mode of turns trained without thoughts."""
        if thinking is None:
            thinking = self.mode_seen.get("plain")
        table: dict[str, str] = {}
        given = [self.as_dict(m, table) for m in messages]
        return self.encoder.encode(self.ask(given, list(tools), True, THINKING[thinking]), table)

    # --- turns -------------------------------------------------------------------------------------------------------------

    def trained_turns(self, example: Example, messages: list[Message]) -> list[int]:
        """Indices of the assistant turns that carry loss."""
        first = len(example.prompt) if len(example.answers) > 1 else 0
        turns = [i for i, m in enumerate(messages) if i >= first and m.role == "assistant" and m.weight > 0]
        return turns[-1:] if self.last_turn_only else turns

    def sequences(
        self, messages: list[Message], tools: list[dict[str, Any]], trained: list[int], origin: str
    ) -> Iterator[Sequence]:
        """One sequence while contexts continue each other, a new one where the template rewrites history."""
        table: dict[str, str] = {}
        given = [self.as_dict(m, table) for m in messages]
        ids: list[int] = []
        loss: list[float] = []
        for i in trained:
            turn = self.turn(given, i, tools, origin, table)
            prompt = self.encoder.encode(turn.prompt, table)
            if prompt[: len(ids)] != ids:
                yield made(ids, loss)
                ids, loss = [], []
            answer = self.answer_ids(turn, prompt, table, origin)
            loss += [0.0] * (len(prompt) - len(ids)) + [messages[i].weight] * len(answer)
            ids = prompt + answer
        yield made(ids, loss)

    def answer_ids(self, turn: Turn, prompt: list[int], table: dict[str, str], origin: str) -> list[int]:
        """Ids of the answer after the prompt's: encoded together, or alone where a token would straddle the border."""
        together = self.encoder.encode(turn.prompt + turn.answer, table)
        if together[: len(prompt)] == prompt:
            answer = together[len(prompt) :]
        else:
            answer = self.encoder.encode(turn.answer, table)
            if self.tokenizer.decode(answer) != restore(turn.answer, table):
                raise RowError("an answer can't be encoded by itself", "the tokenizer changes this answer's text", origin)
        if not answer or answer[-1] not in self.stop_ids:
            raise RowError(
                "an answer has no end", "the template ends this answer with no token that stops the model", origin, WAYS_OUT
            )
        return answer

    def turn(
        self, given: list[dict[str, Any]], i: int, tools: list[dict[str, Any]], origin: str, table: dict[str, str]
    ) -> Turn:
        """The prompt and the answer of assistant message i, in the first thinking mode and shape that say all of it."""
        before, message = given[:i], given[i]
        reasoning = message.get("reasoning_content", "")
        kind = "thinking" if reasoning else "plain"
        why = ""
        for mode in (None, True) if reasoning else (False, None, True):
            try:
                prompt = self.ask(before, tools, True, THINKING[mode])
                if lost := lost_in_prompt(prompt, before, tools):
                    why = why or lost
                    continue
                for key in (*REASONING_KEYS, PARTS) if reasoning else REASONING_KEYS[:1]:
                    answered = with_reasoning(message, key, reasoning)
                    for answer in self.shapes(prompt, before, answered, key, reasoning, tools, mode):
                        lost = lost_in_answer(answer, message, reasoning)
                        if lost or (key == PARTS and not self.sets_apart(answer, message, reasoning)):
                            why = why or lost or "the reasoning goes missing"
                            continue
                        self.mode_seen.setdefault(kind, mode)
                        return Turn(prompt, self.ended(answer, given, i, tools, mode, reasoning))
            except RowError as error:
                why = why or error.what
        what = f"message {i}: this template can't say it: {restore(why, table) or 'it rewrites the turn once answered'}"
        ways = f"reasoning: inline or drop, {WAYS_OUT}" if reasoning else WAYS_OUT
        raise RowError("the template can't say it", what, origin, ways)

    def shapes(
        self,
        prompt: str,
        before: list[dict[str, Any]],
        answered: dict[str, Any],
        key: str,
        reasoning: str,
        tools: list[dict[str, Any]],
        mode: bool | None,
    ) -> Iterator[str]:
        """What the model would have to emit after the prompt, by each shape that fits."""
        full = self.ask([*before, answered], tools, False, THINKING[mode])
        opened = re.search(r"<(\w+)>\s*$", prompt) if reasoning else None  # the prompt ends inside a thinking block
        if full.startswith(prompt):
            rest = full[len(prompt) :]
            yield rest
            if opened and rest.startswith(f"</{opened[1]}>"):
                yield reasoning + rest
            elif opened:
                yield f"{reasoning}\n</{opened[1]}>\n\n{rest}"
            return
        shared = self.common_text(prompt, full)
        prefill, rest = prompt[shared:], full[shared:]
        markers = [p for p in self.pieces(prefill) if is_marker(p)]
        if len(markers) >= 2 and not reasoning:
            yield rest.removeprefix(markers[-1])
        if prefill and len(markers) <= 1 and not any("/" in m for m in markers):
            marked = self.ask([*before, with_reasoning(answered, key, MARK)], tools, False, THINKING[mode])
            if MARK in marked:
                yield reasoning + marked.split(MARK, 1)[1]
            elif opened:
                yield f"{reasoning}\n</{opened[1]}>\n\n{rest}"
        history = self.ask(before, tools, False, THINKING[mode])
        if prompt.startswith(history) and full.startswith(history):  # the turn is written without a role header
            yield full[len(history) :]
        if before and before[0]["role"] == "system" and len(before) > 1:  # the system text moves once there is an answer
            short = self.ask(before[1:], tools, True, THINKING[mode])
            answer = self.ask([*before[1:], answered], tools, False, THINKING[mode])
            if answer.startswith(short) and self.pieces(short)[-1:] == self.pieces(prompt)[-1:]:
                yield answer[len(short) :]

    def ended(
        self, answer: str, given: list[dict[str, Any]], i: int, tools: list[dict[str, Any]], mode: bool | None, reasoning: str
    ) -> str:
        """The answer up to the first stop token after all that is said."""
        said = end_of_said(answer, given[i], reasoning)
        ends = [answer.index(stop, said) + len(stop) for stop in self.stops if stop in answer[said:]]
        if ends:
            return answer[: min(ends)]
        return answer + self.implied_stop(given, i, tools, mode)

    def implied_stop(self, given: list[dict[str, Any]], i: int, tools: list[dict[str, Any]], mode: bool | None) -> str:
        """GLM style: a turn is closed by the next role's marker. Ask the template which; else the tokenizer's eos."""
        following = given[i + 1] if i + 1 < len(given) else {"role": "user", "content": "."}
        bare = [*given[:i], {k: v for k, v in given[i].items() if k not in REASONING_KEYS}]
        try:
            closed = self.ask([*bare, following], tools, False, THINKING[mode])[
                len(self.ask(bare, tools, False, THINKING[mode])) :
            ]
        except RowError:
            return self.eos
        return next((stop for stop in self.stops if closed.startswith(stop)), self.eos)

    # --- the template --------------------------------------------------------------------------------------------------------

    def ask(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], prompt: bool, mode: dict[str, bool]) -> str:
        """The template's text, in the sandbox of transformers; RowError with the template's own words where it refuses."""
        try:
            return self.tokenizer.apply_chat_template(
                messages, tools=tools or None, chat_template=self.source, add_generation_prompt=prompt, tokenize=False, **mode
            )
        except Exception as error:  # whatever a template's author raises or forgets
            raise RowError("the template refuses it", f"the template says: {str(error)[:300]}", way_out=WAYS_OUT) from None

    def as_dict(self, message: Message, table: dict[str, str]) -> dict[str, Any]:
        """A message as templates read it, control strings replaced by stand-ins."""
        if self.reasoning != "keep" and message.reasoning:
            thought = f"<think>\n{message.reasoning}\n</think>\n\n" if self.reasoning == "inline" else ""
            message = replace(message, content=thought + str(message.content), reasoning="")
        protect = self.encoder.protect
        found: dict[str, Any] = {"role": message.role, "content": protect(text_of(message), table)}
        if message.reasoning:
            found["reasoning_content"] = protect(message.reasoning, table)
        if message.tool_calls:
            found["tool_calls"] = [
                {
                    "type": "function",
                    **({"id": call.id} if call.id else {}),
                    "function": {"name": call.name, "arguments": protected(call.arguments, lambda text: protect(text, table))},
                }
                for call in message.tool_calls
            ]
        if message.role == "tool":
            found |= {k: v for k, v in (("name", message.name), ("tool_call_id", message.tool_call_id)) if v}
        return found

    def sets_apart(self, answer: str, message: dict[str, Any], reasoning: str) -> bool:
        """Whether a thought given as a content part stands in a block of its own: some templates print parts as they are."""
        _, _, after = answer.partition(reasoning)
        between = after[: after.find(message["content"])] if message["content"] else after
        return any(is_marker(piece) for piece in self.pieces(between)) and "type" not in between

    def borders(self, text: str) -> list[int]:
        """Where the text's tokens end, in letters; a letter of several tokens ends with its last one."""
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [end for (_, end), (start, _) in pairwise([*offsets, (len(text), len(text))]) if end <= start]

    def pieces(self, text: str) -> list[str]:
        """The text cut between tokens: markers are whole."""
        return [text[a:b] for a, b in pairwise([0, *self.borders(text)])]

    def common_text(self, one: str, other: str) -> int:
        """Letters that two texts share from the beginning, up to a border between tokens in both."""
        shared = len(commonprefix([one, other]))  # noqa: RUF071
        both = set(self.borders(one)) & set(self.borders(other))
        return max((end for end in both if end <= shared), default=0)


# --- small parts -----------------------------------------------------------------------------------------------------------


def template_source(tokenizer: Any, template: str | None) -> str:
    """The Jinja text in force: the model's own, the built-in chatml, a file, or the text itself."""
    if template is None:
        own = tokenizer.chat_template
        if not own:
            way_out = "template: chatml (built in), or template: FILE.jinja"
            raise ConfigError("this model has no chat template, so conversations can't be written for it", "template", way_out)
        return own if isinstance(own, str) else own.get("default", next(iter(own.values())))
    if template == "chatml":
        return CHATML.read_text(encoding="utf-8")
    if "{" in template:
        return template
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the template can't be read: {error}", template, "name a .jinja file in UTF-8, or chatml") from None


def made(ids: list[int], loss: list[float]) -> Sequence:
    return Sequence(np.array(ids, np.int32), np.array(loss, np.float32))


def with_reasoning(message: dict[str, Any], key: str, text: str) -> dict[str, Any]:
    bare = {k: v for k, v in message.items() if k not in REASONING_KEYS}
    if key == PARTS and text:
        said = [{"type": "text", "text": message["content"]}] if message["content"] else []
        return {**bare, "content": [{"type": "thinking", "thinking": text}, *said]}
    return {**bare, key: text} if text else bare


def is_marker(piece: str) -> bool:
    return len(piece) > 2 and piece[0] in "<[" and piece[-1] in ">]"


def text_of(message: Message) -> str:
    return message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)


def protected(value: Any, protect: Any) -> Any:
    """Every text in a JSON value, protected."""
    if isinstance(value, str):
        return protect(value)
    if isinstance(value, dict):
        return {protect(k): protected(v, protect) for k, v in value.items()}
    if isinstance(value, list):
        return [protected(v, protect) for v in value]
    return value
