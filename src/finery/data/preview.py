"""What the model would learn, token by token: as records for programs, in colour and underlined for people."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finery.data.prepare import Prepared


def records(prepared: Prepared, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """One record per sequence: its row, its ids, the loss weight of each token, its text with control tokens."""
    for row in [*prepared.train, *prepared.validation]:
        for sequence in row.sequences:
            ids = sequence.ids.tolist()
            text = tokenizer.decode(ids, skip_special_tokens=False)
            yield {"origin": row.example.origin, "ids": ids, "loss": [float(w) for w in sequence.loss], "text": text}


def show(prepared: Prepared, tokenizer: Any, count: int) -> None:
    """The first `count` sequences. What is learned is green and underlined, a weight other than 1 is said."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    shown = 0
    for row in [*prepared.train, *prepared.validation]:
        for sequence in row.sequences:
            if shown == count:
                total = sum(len(r.sequences) for r in [*prepared.train, *prepared.validation])
                console.print(f"... {total - shown} more sequences; --rows N shows more", style="dim")
                return
            shown += 1
            learned = int((sequence.loss > 0).sum())
            header = f"--- {row.example.origin}: {len(sequence.ids)} tokens, {learned} learned (underlined)"
            console.print(header, style="bold", markup=False)
            text = Text()
            place = 0
            for weight, run in groupby(sequence.loss.tolist()):
                length = len(list(run))
                piece = tokenizer.decode(sequence.ids[place : place + length].tolist(), skip_special_tokens=False)
                text.append(piece, style="green underline" if weight > 0 else "dim")
                if weight not in (0.0, 1.0):
                    text.append(f"[weight {weight:g}]", style="yellow")
                place += length
            console.print(text)
