"""Unchanged mathematics gives the curve that was kept: a change of the loss or the update shows here, wanted or not.

To keep a new one on purpose: `python -m tests.contracts.test_reference_curve`, and say why in the commit.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from finery.cli import main
from finery.run import open_run
from tests.tiny import make_model, write_rows

KEPT = Path(__file__).with_name("reference_curve.json")


def curve(folder: Path) -> list[dict[str, float]]:
    """Loss, gradient norm and learning rate of twelve LoRA steps over shuffled rows in several passes."""
    make_model(folder / "model")
    write_rows(folder / "rows.jsonl", 20)
    settings = {"batch_size": 5, "epochs": 3, "learning_rate": 1e-2, "schedule": "cosine", "warmup": 2, "weight_decay": 0.1}
    values = {"model": "model", "data": "rows.jsonl", "tokens_per_pass": 64, "seed": 3, **settings}
    values["output"] = str(folder / "run")
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", str(folder / "run.yaml")]) == 0
    names = ("loss", "gradient_norm", "learning_rate")
    return [{n: event[n] for n in names} for event in open_run(folder / "run").events() if event["event"] == "step"]


def test_the_kept_curve(tmp_path: Path) -> None:
    kept, now = json.loads(KEPT.read_text()), curve(tmp_path)
    assert len(kept) == len(now) == 12
    for step, (before, after) in enumerate(zip(kept, now, strict=True), 1):
        assert after == pytest.approx(before, rel=1e-4), f"step {step}"
    assert now[-1]["loss"] < now[0]["loss"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        KEPT.write_text(json.dumps(curve(Path(scratch)), indent=1) + "\n")
    sys.exit(0)
