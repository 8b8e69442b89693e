"""Supervised fine-tuning: negative log-likelihood of the tokens that the model must emit.

    L = - sum_m w_m log p(y_m | context of m) / sum_m w_m

over the M predictions of the whole step: w_m is the weight of emitting token y_m, 0 for prompts and tool output. One
denominator for the step, so a long answer counts by its tokens and the way the step is cut into passes changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from finery.types import Batch, Loss, Row, Scores

NEEDS = ("logp", "hit")


def denominators(rows: Iterable[Row], settings: Any) -> dict[str, float]:
    """The sum of the loss weights of the rows, under the name of the term."""
    return {"nll": float(sum(sequence.loss.sum(dtype="float64") for row in rows for sequence in row.sequences))}


def loss(scores: Scores, batch: Batch, settings: Any) -> Loss:
    """One term, `nll`, in units of trained tokens; the metric `accuracy` counts targets that were the most likely token."""
    assert scores.logp is not None and scores.hit is not None
    weight = batch.weight
    trained = float(weight.sum())
    hits = float((scores.hit * (weight > 0)).sum())
    return Loss(
        terms={"nll": (-(weight * scores.logp).sum(), trained, "token")},
        metrics={"accuracy": (hits, float((weight > 0).sum()))},
    )
