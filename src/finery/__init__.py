"""Finery fine-tunes language models: what is trained is what is served.

    import finery

    config = finery.load_config("run.yaml", ["learning_rate=1e-4"])
    run = finery.train(config)
    print(run.status())

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finery.config.load import load_config
    from finery.config.schema import Config
    from finery.errors import FineryError
    from finery.infer.chat import chat
    from finery.run import Run, open_run
    from finery.train.start import resume, train

__all__ = ["Config", "FineryError", "Run", "chat", "load_config", "open_run", "resume", "train"]

_HOME = {
    "Config": "finery.config.schema",
    "FineryError": "finery.errors",
    "Run": "finery.run",
    "chat": "finery.infer.chat",
    "load_config": "finery.config.load",
    "open_run": "finery.run",
    "resume": "finery.train.start",
    "train": "finery.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'finery' has no attribute {name!r}")
    from importlib import import_module

    home = import_module(_HOME[name])
    return home if _HOME[name] == f"finery.{name}" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
