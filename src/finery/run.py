"""The run folder: the only state of a run, in plain files, and the only module that knows their names.

run.yaml            every setting in force
environment.json    versions, processor, threads, fingerprint of the base model, what rendering needs to be the same again
ledger.json         what happened to each row of the data
events.jsonl        one JSON object a line: start, step, evaluate, checkpoint, resume, stop, error, end
log.txt             what the terminal showed, with times
samples.jsonl       answers to the same questions at each evaluation
heartbeat.json      process, step and time of the last sign of life
lock                held by the process that owns the run (released by the system when it dies)
stop                exists while somebody asks the run to save and leave
checkpoints/step-N  weights, optimizer and numbers; complete when manifest.json is there and agrees
final/              the trained weights in the form that transformers and peft load
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import RunError

if TYPE_CHECKING:
    from finery.config.schema import Config

LOCK_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Status:
    """Where a run stands, derived from its files."""

    state: str  # new | running | stopped | failed | killed | done
    step: int
    steps: int | None  # how many there will be
    detail: str = ""  # why it failed


class Run:
    """A run folder that exists. Reading needs nothing else; writing needs `with run.own():`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_file = folder / "run.yaml"
        self.environment_file = folder / "environment.json"
        self.ledger_file = folder / "ledger.json"
        self.events_file = folder / "events.jsonl"
        self.log_file = folder / "log.txt"
        self.samples_file = folder / "samples.jsonl"
        self.heartbeat_file = folder / "heartbeat.json"
        self.lock_file = folder / "lock"
        self.stop_file = folder / "stop"
        self.checkpoints_folder = folder / "checkpoints"
        self.final_folder = folder / "final"

    # --- what it holds -------------------------------------------------------------------------------------------------

    @cached_property
    def config(self) -> Config:
        """The settings in force, read from run.yaml."""
        from finery.config.load import load_config

        return load_config(self.config_file, files_must_exist=False)

    @property
    def environment(self) -> dict[str, Any]:
        return read_json(self.environment_file)

    def events(self) -> Iterator[dict[str, Any]]:
        """Events in order, without the steps that a resume did again. A line cut by a crash is left out."""
        events = list(json_lines(self.events_file))
        resumed = None  # steps after this one were done again by a later resume
        kept = []
        for event in reversed(events):
            if event["event"] == "resume":
                resumed = event["step"] if resumed is None else min(resumed, event["step"])
            elif resumed is not None and event.get("step", 0) > resumed:
                continue
            kept.append(event)
        return reversed(kept)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = self.checkpoints_folder.glob("step-*/manifest.json") if self.checkpoints_folder.is_dir() else ()
        return sorted((path.parent for path in found), key=lambda folder: step_of(folder))

    def checkpoint_folder(self, step: int) -> Path:
        return self.checkpoints_folder / f"step-{step:08d}"

    @property
    def finished(self) -> bool:
        """Whether the final weights are there, whole."""
        return (self.final_folder / "manifest.json").is_file()

    def status(self) -> Status:
        """Where the run stands. Derived from the lock and the events; nothing keeps it up to date, so it can't be stale."""
        state, step, steps, detail = "new", 0, None, ""
        for event in self.events():
            step, steps = event.get("step", step), event.get("steps", steps)
            match event["event"]:
                case "start" | "resume":
                    state, detail = "killed", ""
                case "stop":
                    state = "stopped"
                case "error":
                    state, detail = "failed", event.get("what", "")
                case "end":
                    state = "done"
        return Status("running" if self.is_owned() else state, step, steps, detail)

    # --- owning it -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def own(self) -> Iterator[None]:
        """Hold the run; RunError where another process does. The system lets go when the process ends, however it ends."""
        with open(self.lock_file, "a+") as file:
            deadline = time.monotonic() + LOCK_WAIT_SECONDS  # somebody who only looks holds it for a moment
            while not try_lock(file, exclusive=True):
                if time.monotonic() > deadline:
                    owner = read_json(self.heartbeat_file) or {}
                    who = f" (process {owner['pid']} on {owner['host']})" if "pid" in owner else ""
                    raise RunError(
                        f"another process is writing this run{who}",
                        str(self.folder),
                        "wait for it, stop it with `finery stop`, or give another `output`",
                    )
                time.sleep(0.02)
            self.stop_file.unlink(missing_ok=True)
            yield

    def is_owned(self) -> bool:
        """Whether a living process owns the run now."""
        try:
            with open(self.lock_file) as file:
                return not try_lock(file, exclusive=False)
        except FileNotFoundError:
            return False

    # --- writing -------------------------------------------------------------------------------------------------------

    def event(self, event: str, **fields: Any) -> None:
        """Append one line to events.jsonl."""
        append_json(self.events_file, {"event": event, **fields, "time": round(time.time(), 3)})

    def sample(self, **fields: Any) -> None:
        """Append one answer to samples.jsonl."""
        append_json(self.samples_file, fields)

    def beat(self, step: int) -> None:
        """Leave a sign of life."""
        write_json(self.heartbeat_file, {"pid": os.getpid(), "host": socket.gethostname(), "step": step, "time": time.time()})

    def request_stop(self) -> None:
        """Ask the owner to save a checkpoint and leave."""
        self.stop_file.touch()

    def stop_requested(self) -> bool:
        return self.stop_file.exists()


# --- making and finding runs -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_run(folder: Path, config: Config) -> Iterator[Run]:
    """Make the run folder with its run.yaml and own it. RunError where it holds another run or other files.

    A run without a checkpoint has nothing to resume: the same command starts it anew.
    """
    from finery.config.load import dump_config

    run = Run(folder)
    if folder.is_dir() and not run.lock_file.exists() and any(folder.iterdir()):
        raise RunError(
            "the output folder holds files that are not a run", str(folder), "give another `output` or an empty folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the run folder can't be made: {error.strerror}", str(folder), "give another `output`") from None
    with run.own():
        refuse_to_overwrite(run)
        for old in (run.events_file, run.samples_file, run.log_file, run.ledger_file, run.environment_file):
            old.unlink(missing_ok=True)
        write_text(run.config_file, dump_config(config))
        yield run


def refuse_to_overwrite(run: Run) -> None:
    """RunError where the folder holds weights that somebody may want."""
    if run.finished:
        raise RunError(
            "the output folder holds a finished run; nothing in it was changed",
            str(run.folder),
            f"give another `output`, or train it further with `finery resume {run.folder} epochs=...`",
        )
    if saved := run.checkpoints():
        raise RunError(
            f"the output folder holds a run that was saved at step {step_of(saved[-1])}; nothing in it was changed",
            str(run.folder),
            f"go on with `finery resume {run.folder}`, or give another `output`",
        )


def open_run(folder: Path | str) -> Run:
    """An existing run; RunError where the folder is none."""
    run = Run(Path(folder))
    if not is_run(folder):
        what = (
            "this folder is not a run: no run was ever started in it" if run.folder.is_dir() else "there is no such run folder"
        )
        near = [str(other.folder) for other in find_runs(run.folder.parent)][:5]
        raise RunError(what, str(folder), f"runs here: {', '.join(near)}" if near else "see `finery runs`")
    return run


def is_run(folder: Path | str) -> bool:
    """Whether a run was started in a folder: settings of a user may be called run.yaml too, but have no lock beside them."""
    run = Run(Path(folder))
    return run.config_file.is_file() and run.lock_file.is_file()


def find_runs(root: Path) -> list[Run]:
    """The runs directly in `root`, newest first."""
    found = [Run(path.parent) for path in root.glob("*/run.yaml") if is_run(path.parent)] if root.is_dir() else []
    return sorted(found, key=lambda run: run.config_file.stat().st_mtime, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("step-"))


# --- files that survive a crash ---------------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content, or {} where the file is missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def append_json(path: Path, value: dict[str, Any]) -> None:
    """Append one line in one write; a line that a crash cut is closed first."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    with open(path, "ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            line = "\n" + line
        file.write(line.encode("utf-8"))


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file; lines that a crash cut are left out."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)


def try_lock(file: Any, exclusive: bool) -> bool:
    """Take the lock of an open file without waiting."""
    import fcntl  # not on Windows, where Finery runs in WSL

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
