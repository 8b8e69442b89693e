"""Raw text for continued pre-training: documents become blocks of at most `context` tokens, and each token is learned once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from finery.data.encode import Encoder
from finery.data.pack import plan_passes, shared_tokens
from finery.errors import ModelError
from finery.types import Example, Row, Sequence


@dataclass(frozen=True)
class Document:
    """A text as tokens, int32 (T,), with the place that it came from."""

    ids: np.ndarray
    source: str
    origin: str


class DocumentEncoder:
    """A tokenizer with what it puts before a text; the end token goes behind. Control strings in a text are ordinary text."""

    def __init__(self, tokenizer: Any) -> None:
        self.encoder = Encoder(tokenizer)
        self.end = tokenizer.eos_token_id
        if self.end is None:
            raise ModelError("the tokenizer has no end token, so documents can't be told apart", way_out="set its eos_token")
        bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        places = range(len(whole) - len(bare) + 1)
        self.begin: list[int] = next((whole[:i] for i in places if whole[i : i + len(bare)] == bare), [])

    def encode(self, example: Example) -> Document:
        table: dict[str, str] = {}
        text = self.encoder.encode(self.encoder.protect(example.text, table), table)
        return Document(np.array([*self.begin, *text, self.end], np.int32), example.source, example.origin)


def to_blocks(documents: list[Document], context: int) -> list[Row]:
    """Blocks of at most `context` tokens. A long document is cut into chunks; chunks that share a block don't see each other.

    Chunks are placed where they fit best, so that blocks are full and nothing is cut without need (Ding et al. 2024,
    arXiv 2404.10830); blocks stand in the order of their first chunk.
    """
    chunks = [(document, chunk) for document in documents for chunk in cut(document.ids, context)]
    blocks = []
    for chosen in plan_passes([len(chunk.ids) for _, chunk in chunks], context):
        origins = [chunks[i][0].origin for i in chosen]
        first = chunks[chosen[0]][0]
        sequences = [chunks[i][1] for i in chosen]
        example = Example(source=first.source, origin=first.origin, labels={"documents": origins})
        blocks.append(Row(example, sequences, shared_tokens(sequences)))
    return blocks


def cut(ids: np.ndarray, context: int) -> list[Sequence]:
    """Chunks of at most `context` tokens; each begins with the last token of the one before, which is context there.

    So every token but a document's first, which nothing predicts, is learned exactly once.
    """
    chunks = []
    for start in range(0, max(1, len(ids) - 1), context - 1):
        piece = ids[start : start + context]
        loss = np.ones(len(piece), np.float32)
        loss[0] = 0.0
        chunks.append(Sequence(piece, loss))
    return chunks
