"""Checkpoints: exact, sealed, whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finery.errors import RunError
from finery.run import Run
from finery.train.checkpoint import load_checkpoint, save_checkpoint, verify


def job(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    model[0].bias.requires_grad_(False)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    model(torch.randn(3, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_resumed_optimizer_goes_on_bitwise(tmp_path: Path) -> None:
    run = Run(tmp_path)
    model, optimizer = job(0)
    step(model, optimizer, 1)
    saved = save_checkpoint(run, model, optimizer, {"step": 1, "counters": {}}, keep=2)
    step(model, optimizer, 2)
    other, its_optimizer = job(0)  # frozen parameters come from the base, as in a run
    with torch.no_grad():
        other[1].weight.zero_()
    assert load_checkpoint(saved, other, its_optimizer)["step"] == 1
    step(other, its_optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_old_checkpoints_rotate(tmp_path: Path) -> None:
    run = Run(tmp_path)
    model, optimizer = job(0)
    for number in range(1, 5):
        step(model, optimizer, number)
        save_checkpoint(run, model, optimizer, {"step": number}, keep=2)
    assert [folder.name for folder in run.checkpoints()] == ["step-00000003", "step-00000004"]
    assert not list(run.checkpoints_folder.glob(".*"))


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_one_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    model, optimizer = job(0)
    step(model, optimizer, 1)
    saved = save_checkpoint(Run(tmp_path), model, optimizer, {"step": 1}, keep=2)
    verify(saved)
    content = bytearray((saved / name).read_bytes())
    content[-3] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        load_checkpoint(saved, *job(0))


def test_a_half_written_checkpoint_is_none(tmp_path: Path) -> None:
    run = Run(tmp_path)
    model, optimizer = job(0)
    step(model, optimizer, 1)
    saved = save_checkpoint(run, model, optimizer, {"step": 1}, keep=2)
    left = run.checkpoints_folder / ".step-00000002.123"
    left.mkdir()
    (run.checkpoints_folder / "step-00000003").mkdir()
    assert run.checkpoints() == [saved]
    step(model, optimizer, 2)
    save_checkpoint(run, model, optimizer, {"step": 2}, keep=2)
    assert not left.exists()


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    model, optimizer = job(0)
    step(model, optimizer, 1)
    saved = save_checkpoint(Run(tmp_path), model, optimizer, {"step": 1}, keep=2)
    other = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.Linear(9, 2))
    with pytest.raises(RunError, match="not those of this model"):
        load_checkpoint(saved, other, torch.optim.AdamW(other.parameters()))
