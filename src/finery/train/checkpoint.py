"""Checkpoints: safetensors for tensors, JSON for numbers, a manifest with size and sha256 written last. Nothing is pickled.

    step-00000020/weights.safetensors     the trained parameters, by name
                  optimizer.safetensors   the optimizer's tensors, `NAME.exp_avg` and so on
                  state.json              step, counters, the optimizer's numbers, settings, versions, threads
                  manifest.json           every other file's size and sha256

A folder is filled under another name, its files and itself are fsynced, then it is renamed: a crash leaves the old state or
the new. There is no random state to keep: order and dropout are pure functions of (seed, step).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import RunError
from finery.run import Run, read_json, write_json
from finery.train.optim import trained_parameters

if TYPE_CHECKING:
    import torch

FORMAT = 1


def save_checkpoint(
    run: Run, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], keep: int
) -> Path:
    """Write a checkpoint of step `state["step"]`, then remove all but the newest `keep`."""
    from safetensors.torch import save_file

    parameters = trained_parameters(model)
    tensors, numbers = optimizer_state(parameters, optimizer)
    final = run.checkpoint_folder(state["step"])
    scratch = final.with_name(f".{final.name}.{os.getpid()}")
    remove_leftovers(run)
    scratch.mkdir(parents=True)
    save_file({name: p.detach().cpu().contiguous() for name, p in parameters.items()}, scratch / "weights.safetensors")
    save_file(tensors, scratch / "optimizer.safetensors")
    write_json(scratch / "state.json", {**state, "optimizer": numbers})
    seal(scratch, {"format": FORMAT, "step": state["step"]})
    if final.exists():  # the same step again, after a resume
        shutil.rmtree(final)
    scratch.rename(final)
    sync(final.parent)
    for old in run.checkpoints()[:-keep]:
        shutil.rmtree(old)
    return final


def load_checkpoint(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put the weights and the optimizer's state back; returns state.json. RunError where a file is damaged or does not fit."""
    import torch
    from safetensors.torch import load_file

    state = read_state(folder)
    parameters = trained_parameters(model)
    weights = load_file(folder / "weights.safetensors")
    if weights.keys() != parameters.keys() or any(weights[n].shape != p.shape for n, p in parameters.items()):
        raise RunError(
            "the checkpoint's weights are not those of this model and adapter", str(folder), "resume with the same settings"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    tensors = load_file(folder / "optimizer.safetensors")
    for name, parameter in parameters.items():
        slots = {slot: tensors[f"{name}.{slot}"] for slot in state["optimizer"]["slots"] if f"{name}.{slot}" in tensors}
        # Adam's step counter stays on the CPU, as torch keeps it
        optimizer.state[parameter] = {k: v if v.ndim == 0 else v.to(parameter.device) for k, v in slots.items()}
    return state


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a whole checkpoint; RunError where a file's size or sha256 differs from the manifest."""
    verify(folder)
    return read_json(folder / "state.json")


def optimizer_state(
    parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The optimizer's tensors by `PARAMETER.SLOT`, and the names of the slots. RunError where a slot is more than a tensor."""
    import torch

    tensors: dict[str, torch.Tensor] = {}
    slots: set[str] = set()
    for name, parameter in parameters.items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, torch.Tensor):
                raise RunError(f"the optimizer keeps a {type(value).__name__} as `{slot}`: it can't be saved without pickle")
            tensors[f"{name}.{slot}"] = value.detach().cpu().contiguous()
            slots.add(slot)
    own = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    return tensors, {"class": type(own).__name__, "slots": sorted(slots)}


# --- sealed folders --------------------------------------------------------------------------------------------------------


def seal(folder: Path, about: dict[str, Any]) -> None:
    """Fsync every file, then write manifest.json with their sizes and hashes, then fsync the folder."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sync(path)
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    manifest = folder / "manifest.json"
    write_json(manifest, {**about, "files": files})
    sync(manifest)
    sync(folder)


def verify(folder: Path) -> None:
    """RunError unless every file is as the manifest says."""
    try:
        files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        raise RunError("this folder is not a whole checkpoint: its manifest is missing or broken", str(folder)) from None
    for name, wanted in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != wanted["bytes"] or sha256(path) != wanted["sha256"]:
            raise RunError(
                f"the checkpoint is damaged: {name} is not as its manifest says",
                str(folder),
                "remove this checkpoint's folder; `finery resume` then takes the one before",
            )


def remove_leftovers(run: Run) -> None:
    """Half-written checkpoints of a process that was killed."""
    for path in run.checkpoints_folder.glob(".step-*"):
        shutil.rmtree(path)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make a file or a folder's entries reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
