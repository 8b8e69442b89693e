"""`finery runs` and `finery stop`: what run folders say, read from their files alone."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from finery.run import Run, find_runs, is_run, open_run, read_json

STOP_POLL_SECONDS = 0.2


def summary(run: Run) -> dict[str, Any]:
    """One run in one record, for a table or for JSON."""
    status = run.status()
    record: dict[str, Any] = {
        "run": str(run.folder),
        "state": status.state,
        "step": status.step,
        "steps": status.steps,
        "model": run.config.model,
        "objective": run.config.objective.type,
        "adapter": run.config.adapter.type,
    }
    if status.detail:
        record["detail"] = status.detail
    for event in run.events():
        if event["event"] == "step":
            record["loss"] = event["loss"]
        elif event["event"] == "evaluate":
            record.setdefault("held_out_loss_before", event["loss"])
            record["held_out_loss"] = event["loss"]
    if run.finished:
        record["final"] = str(run.final_folder)
    return record


def show_runs(folder: Path, as_json: bool) -> int:
    """A table of the runs in a folder, or one run in detail."""
    if is_run(folder):
        return show_run(open_run(folder), as_json)
    found = find_runs(folder)
    records = [summary(run) for run in found]
    if as_json:
        print(json.dumps(records, ensure_ascii=False))
        return 0
    if not records:
        print(f"no runs in {folder}", file=sys.stderr)
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "state", "step", "loss", "held-out loss", "model", box=None, pad_edge=False)
    for record in records:
        steps = f"{record['step']}/{record['steps']}" if record["steps"] else "-"
        held_out = (
            f"{record['held_out_loss_before']:.4f} -> {record['held_out_loss']:.4f}" if "held_out_loss" in record else "-"
        )
        loss = f"{record['loss']:.4f}" if "loss" in record else "-"
        table.add_row(Path(record["run"]).name, record["state"], steps, loss, held_out, Path(record["model"]).name)
    Console(highlight=False).print(table)
    return 0


def show_run(run: Run, as_json: bool) -> int:
    """State, settings and the course of one run."""
    record = summary(run)
    if as_json:
        print(
            json.dumps(
                {**record, "settings": run.config.model_dump(), "ledger": read_json(run.ledger_file)}, ensure_ascii=False
            )
        )
        return 0
    print(f"{run.folder}: {record['state']}, step {record['step']} of {record['steps'] or '?'}")
    if "detail" in record:
        print(f"  {record['detail']}")
    print(f"  model      {record['model']}")
    print(f"  objective  {record['objective']}, adapter {record['adapter']}")
    for event in run.events():
        if event["event"] == "evaluate":
            print(f"  step {event['step']:>6}  held-out loss {event['loss']:.4f}")
    if "loss" in record:
        print(f"  step {record['step']:>6}  loss {record['loss']:.4f}")
    saved = [checkpoint.name for checkpoint in run.checkpoints()]
    print(f"  checkpoints  {', '.join(saved) or 'none'}")
    print(f"  final        {record.get('final', 'not yet')}")
    return 0


def stop_run(folder: str, wait: bool) -> int:
    """Ask the owner of a run to save and leave, and wait until it has."""
    run = open_run(folder)
    if not run.is_owned():
        print(f"{folder} is not running ({run.status().state})")
        return 0
    run.request_stop()
    print(f"{folder} was asked to finish its step, save a checkpoint and leave", flush=True)
    while wait and run.is_owned():
        time.sleep(STOP_POLL_SECONDS)
    if wait:
        status = run.status()
        print(f"{status.state} at step {status.step}")
    return 0
