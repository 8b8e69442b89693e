"""What a run depends on besides its settings and data; compared when it is resumed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("finery", "torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy")


def environment(model: str, about: dict[str, Any]) -> dict[str, Any]:
    """Versions, processor, threads, the fingerprint of the base model, and `about`: how it was loaded."""
    import torch

    from finery.model.load import fingerprint

    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "processor": processor(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "base": {"name": model, "fingerprint": fingerprint(model)},
        "model": about,
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return platform.processor() or platform.machine()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What is not as it was when the run started, a sentence each."""
    found = []
    for name, was in old.get("versions", {}).items():
        if (now := new["versions"].get(name)) != was:
            found.append(f"{name} was {was}, is {now}")
    for key in ("processor", "threads"):
        if old.get(key) != new[key]:
            found.append(f"{key}: was {old.get(key)}, is {new[key]}")
    return found
