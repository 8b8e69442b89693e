"""`finery chat`: talk to a run or a model in the terminal, the tuned model beside its base where wanted."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finery.types import Message

if TYPE_CHECKING:
    from finery.infer.hf import Answer
    from finery.infer.load import Speaker

HELP = "Enter sends, Ctrl-C ends an answer, /exit or Ctrl-D leaves."
ROOM = 16  # tokens that must be left for an answer
LABELS = {False: "base ", True: "tuned"}


@dataclass(frozen=True)
class Settings:
    """How answers are made."""

    temperature: float = 0.0
    max_tokens: int = 512
    seed: int | None = None


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

    person = messages is None and sys.stdin.isatty()
    if person:
        print(f"loading {target} ...", file=sys.stderr)
    speaker = load_speaker(target, compare)
    if person:
        print(HELP, file=sys.stderr)
    settings = Settings(temperature, max_tokens, seed)
    start = [Message("system", system)] if system else []
    histories = {tuned: list(start) for tuned in ((False, True) if compare else (True,))}
    for text in questions(messages, person):
        answers = {}
        for tuned, history in histories.items():
            history.append(Message("user", text))
            shorten(speaker, history, settings)
            label = f"{LABELS[tuned]} " if compare else ""
            answer = answered(speaker, history, tuned, settings, None if as_json else printer(label, person))
            history.append(Message("assistant", answer.text))
            answers[tuned] = answer
        if as_json:
            print(json.dumps(record(text, answers), ensure_ascii=False), flush=True)
    return 0


def questions(messages: list[str] | None, person: bool) -> Iterator[str]:
    """What is asked, until there is no more."""
    if messages is not None:
        yield from messages
        return
    if person:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  line editing and history, where the system has it
    lines: Iterable[str] = typed() if person else (line.rstrip("\n") for line in sys.stdin)
    for line in lines:
        if line.strip() in ("/exit", "/quit"):
            return
        if line.strip():
            yield line


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
        note = {"stop": "", "length": " [the limit of --max-tokens]", "cancelled": " [stopped]"}[answer.finish]
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
        sys.stdout.write(piece)
        sys.stdout.flush()

    return write


def shorten(speaker: Speaker, history: list[Message], settings: Settings) -> None:
    """Forget the oldest turns where the conversation no longer fits into the model's context; said each time."""
    if speaker.context is None:
        return
    forgotten = 0
    first = 1 if history and history[0].role == "system" else 0
    while len(history) - first > 1 and len(speaker.renderer.prompt(history)) > speaker.context - ROOM:
        del history[first : first + 2]
        forgotten += 2
    if forgotten:
        print(f"[the context is full: the oldest {forgotten} messages are forgotten]", file=sys.stderr)


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
