"""`finery doctor`: what this machine has, and what would stand in the way of a run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from finery.train.environment import processor, version

NEEDED = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy", "pydantic", "pyarrow", "gguf")
DISK_LOW_BYTES = 5 * 2**30


def doctor(as_json: bool) -> int:
    """Print the findings; exit code 1 where something must be mended first."""
    facts = look()
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        for name in ("python", "platform", "processor", "memory_gib", "disk_free_gib", "device", "dtype"):
            print(f"{name:14} {facts[name]}")
        for name, found in facts["packages"].items():
            print(f"{name:14} {found or 'MISSING'}")
        for problem in facts["problems"]:
            print(f"problem: {problem}", file=sys.stderr)
        if not facts["problems"]:
            print("nothing stands in the way")
    return 1 if facts["problems"] else 0


def look() -> dict[str, Any]:
    """Versions, memory, disk, devices, and a sentence with the way out for each problem."""
    packages = {name: version(name) for name in NEEDED}
    problems = [f"{name} is not installed: pip install {name}" for name, found in packages.items() if found is None]
    free = shutil.disk_usage(Path.cwd()).free
    if free < DISK_LOW_BYTES:
        problems.append(f"only {free / 2**30:.1f} GiB are free on this disk: checkpoints of a large model will not fit")
    device, dtype = devices() if packages["torch"] else ("unknown", "unknown")
    return {
        "finery": version("finery"),
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "processor": processor(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "disk_free_gib": round(free / 2**30, 1),
        "device": device,
        "dtype": dtype,
        "packages": packages,
        "problems": problems,
    }


def devices() -> tuple[str, str]:
    """The device and the number format that a run takes by itself."""
    import torch

    from finery.config.schema import Config, Source
    from finery.model.load import choose

    _, _, about = choose(Config(model="none", data=[Source(path="none")]))
    if about["device"] == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {torch.cuda.device_count()} of them"
    else:
        name = f"CPU, {torch.get_num_threads()} threads"
    return name, about["dtype"]


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
