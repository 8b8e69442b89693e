"""Where the shared test data lies: third-party words that are read from there and never copied."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED_DATA = Path(os.environ.get("FINERY_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def shared(*names: str) -> Path:
    """A file or folder of the shared data; the test is skipped where it is not there."""
    path = SHARED_DATA.joinpath(*names)
    if not path.exists():
        pytest.skip(f"{path} is missing: set FINERY_SHARED_DATA to the folder of the shared test data")
    return path


def case_folder(name: str) -> Path:
    return shared("cases", name)
