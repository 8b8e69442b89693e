"""What the model would learn, token by token: as records for programs, in colour and underlined for people."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from finery.types import Sequence

if TYPE_CHECKING:
    from rich.text import Text

    from finery.data.prepare import Prepared


def records(prepared: Prepared, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """One record for each sequence, training rows first: its place, ids, the loss weight of each token, its text."""
    for origin, sequence in sequences_of(prepared):
        ids = sequence.ids.tolist()
        text = tokenizer.decode(ids, skip_special_tokens=False)
        yield {"origin": origin, "ids": ids, "loss": sequence.loss.tolist(), "text": text}


def sequences_of(prepared: Prepared) -> Iterator[tuple[str, Sequence]]:
    """Every sequence with the place that it came from; the chunks of a block come from several documents."""
    for row in [*prepared.train, *prepared.validation]:
        origins = row.example.labels.get("documents") or [row.example.origin] * len(row.sequences)
        yield from zip(origins, row.sequences, strict=True)


def show(prepared: Prepared, tokenizer: Any, count: int) -> None:
    """The first `count` sequences: learned tokens green and underlined, control tokens reversed, weights other than 1 said."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    total = sum(len(row.sequences) for row in [*prepared.train, *prepared.validation])
    for origin, sequence in islice(sequences_of(prepared), count):
        learned = int((sequence.loss > 0).sum())
        console.print(
            f"--- {origin}: {len(sequence.ids):,} tokens, {learned:,} learned (underlined)", style="bold", markup=False
        )
        console.print(painted(sequence, tokenizer))
    if total > count:
        console.print(f"... {total - count:,} more sequences", style="dim")


def painted(sequence: Sequence, tokenizer: Any) -> Text:
    """The text of a sequence with styles. Runs of one style are decoded together: a letter may take several tokens."""
    from rich.text import Text

    control = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    text = Text()
    ids, loss = sequence.ids.tolist(), sequence.loss.tolist()
    for (weight, special), run in groupby(zip(ids, loss, strict=True), key=lambda pair: (pair[1], pair[0] in control)):
        style = ("green underline" if weight > 0 else "default") + (" reverse" if special else "")
        text.append(tokenizer.decode([token for token, _ in run], skip_special_tokens=False), style=style)
        if weight not in (0.0, 1.0):
            text.append(f"[weight {weight:g}]", style="yellow")
    return text
