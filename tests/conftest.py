"""What several tests share: one tiny model for a whole session. Other models and tokenizers are made with tests/tiny.py,
third-party data is found with tests/shared.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import make_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of a few thousand random weights with a ChatML tokenizer. To be read, never written."""
    return make_model(tmp_path_factory.mktemp("tiny") / "model")
