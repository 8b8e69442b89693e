"""Fine-tune a small real chat model on real data sets with short budgets: does the loss on held-out rows fall in each?

    python benchmarks/real_data.py --model MODEL --data FOLDER [--only NAME] [--out benchmarks/results/real_data.json]

MODEL: SmolLM2-135M-Instruct (`finery demo --model-only` prints its folder). FOLDER: LLaMA-Factory's demo data. Each run is the
command line of a user, in a process of its own; no registry file and no format is named.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import yaml

COMMON = {
    "adapter": {"type": "lora", "rank": 16},
    "learning_rate": 5e-4,
    "batch_size": 4,
    "validation": 8,
    "seed": 0,
    "warmup": 2,
    "evaluate_every": 1000,  # before and after
    "save_every": 1000,
}
RUNS = {
    "alpaca en + zh": {
        "data": [{"path": "alpaca_en_demo.json", "weight": 1.0}, {"path": "alpaca_zh_demo.json", "weight": 0.5}],
        "context": 256,
        "on_too_long": "drop",
        "max_steps": 8,
    },
    "glaive tool calls": {
        "data": "glaive_toolcall_en_demo.json",
        "template": "chatml",
        "context": 512,
        "on_too_long": "drop",
        "max_steps": 6,
    },
    "reasoning with tools": {
        "data": "reason_tool_use_demo_50.jsonl",
        "template": "chatml",
        "context": 1024,
        "on_too_long": "drop",
        "validation": 4,
        "batch_size": 2,
        "max_steps": 6,
    },
    "wiki, raw text": {
        "data": "wiki_demo.txt",
        "objective": "pt",
        "context": 256,
        "validation": 1,
        "max_steps": 6,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = [measure(name, arguments) for name in RUNS if arguments.only in name]
    print("\n| run | rows | steps | row tokens | minutes | CPU minutes | held-out loss before | after |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['run']} | {row['rows']} | {row['steps']} | {row['row_tokens']} | {row['minutes']:.1f} "
            f"| {row['cpu_minutes']:.1f} | {row['before']:.4f} | {row['after']:.4f} |"
        )
    if arguments.out:
        about = {"date": str(date.today()), "python": platform.python_version(), "common": COMMON}
        arguments.out.write_text(json.dumps({**about, "runs": rows}, indent=2, ensure_ascii=False) + "\n")
    sys.exit(any(row["after"] >= row["before"] for row in rows))


def measure(name: str, arguments: argparse.Namespace) -> dict:
    """One run: its settings and what its folder says afterwards."""
    settings = {**COMMON, **RUNS[name], "model": str(Path(arguments.model).absolute())}
    with tempfile.TemporaryDirectory() as scratch:
        files = settings["data"] if isinstance(settings["data"], list) else [{"path": settings["data"]}]
        settings["data"] = [{**file, "path": str((arguments.data / file["path"]).absolute())} for file in files]
        settings["output"] = f"{scratch}/run"
        (Path(scratch) / "run.yaml").write_text(yaml.safe_dump(settings))
        started, cpu = time.monotonic(), cpu_seconds()
        subprocess.run([sys.executable, "-m", "finery.cli", "train", f"{scratch}/run.yaml"], check=True)
        minutes, cpu_minutes = (time.monotonic() - started) / 60, (cpu_seconds() - cpu) / 60
        events = [json.loads(line) for line in (Path(scratch) / "run" / "events.jsonl").read_text().splitlines()]
        evaluations = [event["loss"] for event in events if event["event"] == "evaluate"]
        start, end = (next(e for e in events if e["event"] == kind) for kind in ("start", "end"))
    return {
        "run": name,
        "settings": RUNS[name],
        "rows": start["rows"],
        "steps": end["step"],
        "row_tokens": end["row_tokens"],
        "trained_tokens": end["trained_tokens"],
        "minutes": minutes,
        "cpu_minutes": cpu_minutes,
        "before": evaluations[0],
        "after": evaluations[-1],
        "evaluations": evaluations,
    }


def cpu_seconds() -> float:
    """Of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
