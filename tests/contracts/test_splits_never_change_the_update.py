"""Contract 2, for passes: any split of a step into passes gives the same update, to 1e-5 relative in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from finery.cli import main
from finery.run import open_run
from tests.tiny import make_model, write_rows


def train(folder: Path, name: str, **settings: object) -> tuple[list[float], dict[str, torch.Tensor]]:
    values = {
        "model": str(folder / "model"),
        "data": str(folder / "rows.jsonl"),
        "adapter": "full",
        "batch_size": 8,
        "epochs": 1,
        "seed": 7,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "output": str(folder / name),
        **settings,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", str(folder / f"{name}.yaml")]) == 0
    losses = [event["loss"] for event in open_run(folder / name).events() if event["event"] == "step"]
    return losses, load_file(folder / name / "final" / "model.safetensors")


@pytest.mark.parametrize("layout", ["forest", "dense", "padded"])
def test_one_pass_or_many(tmp_path: Path, layout: str) -> None:
    make_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl", 8)
    base = load_file(tmp_path / "model" / "model.safetensors")
    losses, whole = train(tmp_path, "whole", tokens_per_pass=4096)
    passes = [event["passes"] for event in open_run(tmp_path / "whole").events() if event["event"] == "step"]
    assert passes == [1]
    for tokens in (60, 8):
        some_losses, weights = train(tmp_path, f"{layout}{tokens}", tokens_per_pass=tokens, layout=layout)
        assert some_losses == pytest.approx(losses, rel=1e-5)
        for name, tensor in whole.items():
            moved = (tensor - base[name]).norm()
            assert (weights[name] - tensor).norm() <= 1e-5 * tensor.norm() + 1e-5 * moved, name
    events = [event for event in open_run(tmp_path / f"{layout}8").events() if event["event"] == "step"]
    assert events[0]["passes"] == 8
