"""What a person sees while a model trains: one bar on a terminal, plain lines elsewhere, and the same lines in log.txt."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LINE_EVERY_SECONDS = 15.0


class Console:
    """Lines for people on stderr, and in `log_file` with their time once there is one."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console as Rich

        self.rich = Rich(stderr=True, highlight=False, soft_wrap=True)
        self.quiet = quiet
        self.log_file: Path | None = None
        self.bar: Any = None
        self.last_line = 0.0
        self.started = time.monotonic()
        self.steps_shown = 0

    def line(self, text: str, style: str = "") -> None:
        """One line on the terminal and in the log."""
        if self.log_file is not None:
            with open(self.log_file, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")
        if not self.quiet:
            self.rich.print(text, style=style or None, markup=False)

    @contextlib.contextmanager
    def training(self, step: int, steps: int) -> Iterator[None]:
        """The bar, for the time of the loop."""
        self.started, self.steps_shown = time.monotonic(), 0
        if self.quiet or not self.rich.is_terminal:
            yield
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("[bold]step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.rich, transient=True) as progress:
            self.bar = progress, progress.add_task("train", total=steps, completed=step, numbers="")
            try:
                yield
            finally:
                self.bar = None

    def step(self, numbers: dict[str, Any]) -> None:
        """The numbers of one optimizer step."""
        self.steps_shown += 1
        short = f"loss {numbers['loss']:.4f}  {numbers['tokens_per_second']:.0f} tokens/s  {size(numbers['memory_bytes'])}"
        now = time.monotonic()
        if self.bar is not None:
            progress, task = self.bar
            progress.update(task, completed=numbers["step"], numbers=short)
        due = self.steps_shown == 1 or numbers["step"] == numbers["steps"] or now - self.last_line > LINE_EVERY_SECONDS
        if not due:
            return
        self.last_line = now
        left = (now - self.started) / self.steps_shown * (numbers["steps"] - numbers["step"])
        text = f"step {numbers['step']}/{numbers['steps']}  {short}  left {duration(left)}"
        if self.bar is None:
            self.line(text)
        elif self.log_file is not None:
            with open(self.log_file, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def evaluation(self, step: int, numbers: dict[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        self.line(f"step {step}  held-out {shown}")

    @contextlib.contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """A spinner while something takes a moment; a plain terminal sees nothing."""
        if self.quiet or self.bar is not None or not self.rich.is_terminal:
            yield
            return
        with self.rich.status(text):
            yield


def size(bytes_: int) -> str:
    """1_610_612_736 -> `1.5 GiB`."""
    return f"{bytes_ / 2**30:.1f} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """3_700 -> `1 h 1 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
