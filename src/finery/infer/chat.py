"""`finery chat`: talk to a run or a model in the terminal, the tuned model beside its base where wanted."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finery.errors import ConfigError, DataError, FineryError
from finery.types import Message

if TYPE_CHECKING:
    from finery.infer.hf import Answer
    from finery.infer.load import Speaker

HELP = "Enter sends, Ctrl-C ends an answer, /exit or Ctrl-D leaves."
ROOM = 16  # tokens that must be left for an answer
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline
LABELS = {False: "base ", True: "tuned"}


@dataclass(frozen=True)
class Settings:
    """How answers are made. ConfigError where a number makes no sense."""

    temperature: float = 0.0
    max_tokens: int = 512
    seed: int | None = None

    def __post_init__(self) -> None:
        for right, where, way_out in (
            (self.temperature >= 0 and math.isfinite(self.temperature), "--temperature", "0 or more; 0.7 is usual"),
            (self.max_tokens >= 1, "--max-tokens", "1 or more"),
            (self.seed is None or 0 <= self.seed < 2**63, "--seed", "a whole number from 0 on"),
        ):
            if not right:
                raise ConfigError("this number can't be used", where, way_out)


def chat(
    target: str,
    *,
    compare: bool = False,
    messages: list[str] | None = None,
    system: str | None = None,
    temperature: float = 0.0,
    max_tokens: int = 512,
    seed: int | None = None,
    as_json: bool = False,
) -> int:
    """Answer `messages`, or the lines of stdin, or a person at a terminal. Returns the exit code."""
    from finery.infer.load import load_speaker

    settings = Settings(temperature, max_tokens, seed)
    person = messages is None and sys.stdin.isatty()
    if person:
        print(f"loading {target} ...", file=sys.stderr)
    speaker = load_speaker(target, compare)
    for note in speaker.notes:
        print(note, file=sys.stderr)
    if person:
        print(HELP, file=sys.stderr)
    start = [Message("system", system)] if system else []
    histories = {tuned: list(start) for tuned in ((False, True) if compare else (True,))}
    forgotten = False
    for text in questions(messages, person):
        lengths = {tuned: len(history) for tuned, history in histories.items()}
        answers = {}
        try:
            for tuned, history in histories.items():
                history.append(Message("user", text))
                if shorten(speaker, history) and not forgotten:
                    forgotten = True
                    print("[the context is full: from here on the oldest messages are forgotten]", file=sys.stderr)
                label = f"{LABELS[tuned]} " if compare else ""
                answers[tuned] = answered(speaker, history, tuned, settings, None if as_json else printer(label, person))
                history.append(Message("assistant", answers[tuned].text))
                if answers[tuned].finish == "cancelled" and not person:
                    raise KeyboardInterrupt
        except FineryError as error:  # about this message: a person may say it in another way
            if not person:
                raise
            print(f"finery: {error}", file=sys.stderr)
            for tuned, history in histories.items():
                del history[lengths[tuned] :]
            continue
        if as_json:
            print(json.dumps(record(text, answers), ensure_ascii=False), flush=True)
    return 0


def questions(messages: list[str] | None, person: bool) -> Iterator[str]:
    """What is asked, until there is no more."""
    if person:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  line editing and history, where the system has it
    given: Iterable[str] = messages if messages is not None else typed() if person else lines()
    for text in given:
        if messages is None and text.strip() in ("/exit", "/quit"):
            return
        if text.strip() or messages is not None:
            yield utf8(text)


def lines() -> Iterator[str]:
    """Lines of stdin. DataError where it is no text."""
    try:
        for line in sys.stdin:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise not_utf8(str(error.reason)) from None


def utf8(text: str) -> str:
    """The text; DataError where the terminal handed over bytes that are none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise not_utf8(str(error.reason)) from None
    return text


def not_utf8(why: str) -> DataError:
    return DataError(f"the message is not UTF-8 text: {why}", "", "convert it, for instance with iconv, or set LANG=C.UTF-8")


def typed() -> Iterator[str]:
    """Lines of a person, until Ctrl-D."""
    while True:
        try:
            yield input("\nyou   ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # of an empty line: nothing to cancel
            print("\n" + HELP, file=sys.stderr)


def answered(
    speaker: Speaker, history: list[Message], tuned: bool, settings: Settings, on_text: Callable[[str], None] | None
) -> Answer:
    """The answer to a conversation; Ctrl-C ends it early and keeps what was said."""
    from finery.infer.hf import generate

    ids = speaker.renderer.prompt(history)
    model, as_wanted = (speaker.model, contextlib.nullcontext()) if tuned else speaker.as_base()
    with as_wanted:
        answer = generate(
            model,
            speaker.tokenizer,
            ids,
            speaker.renderer.stop_ids,
            max_new_tokens=room(speaker, len(ids), settings),
            temperature=settings.temperature,
            seed=settings.seed,
            on_text=on_text,
        )
    if on_text is not None:
        note = {"stop": "", "length": " [cut here: --max-tokens, or the context is full]", "cancelled": " [stopped]"}[
            answer.finish
        ]
        on_text(f"{note}\n")
    return answer


def printer(label: str, person: bool) -> Callable[[str], None]:
    """Writes pieces of an answer as they come, the label in front of the first."""
    begun = False

    def write(piece: str) -> None:
        nonlocal begun
        if not begun:
            sys.stdout.write(label or ("model " if person else ""))
            begun = True
        sys.stdout.write(visible(piece))
        sys.stdout.flush()

    return write


def visible(text: str) -> str:
    """For a terminal: control characters of an answer are shown, never obeyed; they could move the cursor or set the title."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def shorten(speaker: Speaker, history: list[Message]) -> int:
    """Forget the oldest turns where the conversation no longer fits into the model's context; how many messages went.

    DataError where the newest message does not fit even alone.
    """
    if speaker.context is None:
        return 0
    first = 1 if history[0].role == "system" else 0
    kept = list(history)
    while (size := len(speaker.renderer.prompt(kept))) > speaker.context - ROOM:
        if len(kept) - first == 1:
            what = (
                f"the message is too long: {size:,} tokens with the template's own, the model's context is {speaker.context:,}"
            )
            raise DataError(what, "", "say it in fewer words, or take a model with a longer context")
        del kept[first : first + 2]
    forgotten = len(history) - len(kept)
    history[:] = kept
    return forgotten


def room(speaker: Speaker, prompt_tokens: int, settings: Settings) -> int:
    """Tokens that an answer may take."""
    left = speaker.context - prompt_tokens if speaker.context is not None else settings.max_tokens
    return max(1, min(settings.max_tokens, left))


def record(question: str, answers: dict[bool, Answer]) -> dict[str, Any]:
    """One question with its answers, for --json."""
    found: dict[str, Any] = {"question": question, "answer": answers[True].text, "finish": answers[True].finish}
    if False in answers:
        found |= {"base_answer": answers[False].text, "base_finish": answers[False].finish}
    return found
