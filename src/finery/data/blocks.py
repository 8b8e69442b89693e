"""Raw text for continued pre-training: documents become blocks of at most `context` tokens, and each token is learned once."""

from __future__ import annotations

from typing import Any

import numpy as np

from finery.data.encode import encode_text
from finery.types import Example, Row, Sequence


def blocks_of(examples: list[Example], tokenizer: Any, context: int) -> list[Row]:
    """Blocks in the order of the documents. A long one is cut into chunks; short ones share a block without seeing each other."""
    blocks: list[Row] = []
    for example in examples:
        for chunk in chunks_of(document_ids(example.text, tokenizer), context):
            if not blocks or blocks[-1].tokens + len(chunk.ids) > context:
                blocks.append(Row(example, [], 0))
            blocks[-1].sequences.append(chunk)
            blocks[-1].tokens += len(chunk.ids)
    return blocks


def document_ids(text: str, tokenizer: Any) -> np.ndarray:
    """int32 (T,): the tokenizer's own beginning where it adds one, the text, the end token."""
    empty = tokenizer("")["input_ids"]
    ids = (
        [*empty[:1], *encode_text(tokenizer, text)]
        if empty and empty[0] != tokenizer.eos_token_id
        else encode_text(tokenizer, text)
    )
    return np.array([*ids, tokenizer.eos_token_id], np.int32)


def chunks_of(ids: np.ndarray, context: int) -> list[Sequence]:
    """Pieces of at most `context` tokens; each begins with the last token of the one before, so that its first is predicted."""
    found = []
    start = 0
    while start < len(ids) - 1:
        piece = ids[start : start + context]
        loss = np.ones(len(piece), np.float32)
        loss[0] = 0.0  # nothing predicts it here; the piece before has learned it
        found.append(Sequence(piece, loss))
        start += context - 1
    return found
