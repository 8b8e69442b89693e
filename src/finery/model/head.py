"""From hidden states to log-probabilities of the targets, in chunks: the full (M, V) logits never exist.

Letters: M predictions, V vocabulary, D hidden width, C predictions of a chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from finery.types import Scores

CHUNK_NUMBERS = {"cpu": 2**24, "cuda": 2**27}  # logits that exist at once


class Shape(NamedTuple):
    """What a model does to its logits after the matrix: times `scale`, then softcap * tanh(x / softcap)."""

    scale: float = 1.0
    softcap: float | None = None


def shape_of(config: Any) -> Shape:
    """Read from the names that transformers' models use: cohere multiplies, granite divides, gemma caps."""
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Shape(scale, getattr(config, "final_logit_softcapping", None))


def score(hidden: torch.Tensor, target: torch.Tensor, head: torch.nn.Module, shape: Shape, needs: tuple[str, ...]) -> Scores:
    """Scores of M predictions from hidden (M, D) and target (M,). Gradients flow through `logp` and `mean_logp`.

    A frozen matrix needs no second pass: d logp / d hidden is known in the forward. A trained head is recomputed by chunk.
    """
    chunk = max(64, CHUNK_NUMBERS.get(hidden.device.type, 2**24) // _vocabulary(head))
    wanted = tuple(name in needs for name in ("hit", "entropy", "mean_logp"))
    if type(head) is torch.nn.Linear and not any(p.requires_grad for p in head.parameters()):
        outputs = _FrozenHead.apply(hidden, head.weight, head.bias, target, shape, wanted, chunk)
    else:
        pieces = [
            checkpoint(_trained_chunk, head, h, t, shape, wanted, use_reentrant=False)
            for h, t in zip(hidden.split(chunk), target.split(chunk), strict=True)
        ]
        outputs = tuple(None if part[0] is None else torch.cat(part) for part in zip(*pieces, strict=True))
    logp, hit, entropy, mean_logp = outputs
    return Scores(logp=logp, hit=hit, entropy=entropy, mean_logp=mean_logp)


def score_logits(logits: torch.Tensor, target: torch.Tensor, needs: tuple[str, ...]) -> Scores:
    """The same from finished logits (M, V)."""
    wanted = tuple(name in needs for name in ("hit", "entropy", "mean_logp"))
    logp, hit, entropy, mean_logp = _from_logits(logits.float(), target, wanted)
    return Scores(logp=logp, hit=hit, entropy=entropy, mean_logp=mean_logp)


class _FrozenHead(torch.autograd.Function):
    """Log-probabilities with their row gradients; keeps (M, D) per output for the backward, nothing of size V."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        target: torch.Tensor,
        shape: Shape,
        wanted: tuple[bool, ...],
        chunk: int,
    ) -> tuple[torch.Tensor | None, ...]:
        train = ctx.needs_input_grad[0]
        pieces = [
            _frozen_chunk(h, weight, bias, t, shape, wanted, train)
            for h, t in zip(hidden.split(chunk), target.split(chunk), strict=True)
        ]
        logp, hit, entropy, mean_logp, slope, mean_slope = (
            None if part[0] is None else torch.cat(part) for part in zip(*pieces, strict=True)
        )
        if train:
            ctx.save_for_backward(slope, mean_slope)
        ctx.mark_non_differentiable(*(x for x in (hit, entropy) if x is not None))
        return logp, hit, entropy, mean_logp

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        slope, mean_slope = ctx.saved_tensors
        by_logp, by_mean = grads[0], grads[3]
        assert by_logp is not None
        grad = slope * by_logp[:, None].to(slope.dtype)
        if mean_slope is not None and by_mean is not None:
            grad += mean_slope * by_mean[:, None].to(slope.dtype)
        return grad, None, None, None, None, None, None


def _frozen_chunk(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    target: torch.Tensor,
    shape: Shape,
    wanted: tuple[bool, ...],
    train: bool,
) -> tuple[torch.Tensor | None, ...]:
    """(logp, hit, entropy, mean_logp, d logp / d hidden, d mean_logp / d hidden) of C predictions.

    With z the logits, p their softmax, W the matrix and e_y the target: d logp / d z = e_y - p, so the slope is
    W[y] - p @ W; a cap multiplies by 1 - (z / cap)^2 on the way.
    """
    want_hit, want_entropy, want_mean = wanted
    logits = _shaped(F.linear(hidden, weight.to(hidden.dtype), bias).float(), shape)  # (C, V)
    at_target = logits.gather(1, target[:, None])  # (C, 1)
    top = logits.amax(1, keepdim=True)
    mean = logits.mean(1, keepdim=True) if want_mean else None
    # d capped / d plain, with the scale
    bend = None if shape.softcap is None else (logits / shape.softcap).square_().neg_().add_(1.0).mul_(shape.scale)
    powers = logits.sub_(top)  # in place: from here on the shifted logits
    weighted = (powers * powers.exp()).sum(1, keepdim=True) if want_entropy else None
    powers = powers.exp_()
    total = powers.sum(1, keepdim=True)
    norm = total.log() + top
    logp = (at_target - norm).squeeze(1)
    hit = (at_target >= top).squeeze(1) if want_hit else None
    entropy = None if weighted is None else (total.log() - weighted / total).squeeze(1)
    mean_logp = None if mean is None else (mean - norm).squeeze(1)
    if not train:
        return logp, hit, entropy, mean_logp, None, None
    if bend is None:
        pull = (powers.to(weight.dtype) @ weight) * (shape.scale / total)  # (C, D)
        slope = weight[target] * shape.scale - pull
        mean_slope = None if mean is None else weight.mean(0) * shape.scale - pull
    else:
        pull = (powers.mul_(bend).to(weight.dtype) @ weight) / total
        slope = weight[target] * bend.gather(1, target[:, None]) - pull
        mean_slope = None if mean is None else (bend.to(weight.dtype) @ weight) / weight.shape[0] - pull
    return (
        logp,
        hit,
        entropy,
        mean_logp,
        slope.to(hidden.dtype),
        None if mean_slope is None else mean_slope.to(hidden.dtype),
    )


def _trained_chunk(
    head: torch.nn.Module, hidden: torch.Tensor, target: torch.Tensor, shape: Shape, wanted: tuple[bool, ...]
) -> tuple[torch.Tensor | None, ...]:
    return _from_logits(_shaped(head(hidden).float(), shape), target, wanted)


def _from_logits(logits: torch.Tensor, target: torch.Tensor, wanted: tuple[bool, ...]) -> tuple[torch.Tensor | None, ...]:
    """(logp, hit, entropy, mean_logp) from logits (C, V)."""
    want_hit, want_entropy, want_mean = wanted
    at_target = logits.gather(1, target[:, None]).squeeze(1)
    norm = logits.logsumexp(1)
    hit = at_target.detach() >= logits.detach().amax(1) if want_hit else None
    entropy = None
    if want_entropy:
        logps = logits.detach() - norm.detach()[:, None]
        entropy = -(logps.exp() * logps).sum(1)
    return at_target - norm, hit, entropy, logits.mean(1) - norm if want_mean else None


def _shaped(logits: torch.Tensor, shape: Shape) -> torch.Tensor:
    if shape.scale != 1.0:
        logits = logits * shape.scale
    if shape.softcap is not None:
        logits = torch.tanh(logits / shape.softcap) * shape.softcap
    return logits


def _vocabulary(head: Any) -> int:
    return int(getattr(head, "out_features", 0) or head.weight.shape[0])
