"""Attention over a forest, as a function that every transformers model with `AttentionInterface` can call.

The table of who sees whom travels as the layers' `attention_mask`: a (1, 1, 1, N) int64 tensor of subtree ends, which the
mask functions of transformers hand through untouched because it has four dimensions. So it is there again when activations
are recomputed. Letters: N tokens of the pass, H query heads, K key heads, d width of a head, t queries and s keys of a chain.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

NAME = "finery_forest"

# What layers pass on that does not change attention: positions are in the queries already, there is no cache.
WITHOUT_EFFECT = frozenset("position_ids cache_position use_cache position_embeddings layer_idx".split())


class Chain(NamedTuple):
    """A run of tokens, each the first child of the one before: plain causal attention plus what lies above it."""

    start: int
    end: int
    above: tuple[tuple[int, int], ...]  # spans of the ancestors, ascending


class UnsupportedAttention(ValueError):
    """A layer asks for something that the forest does not compute; the model takes another layout."""


def register() -> None:
    """Tell transformers of the forest. Saying it twice is fine."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, forest_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def forest_mask(subtree_end: torch.Tensor) -> torch.Tensor:
    """The `attention_mask` for a pass: (1, 1, 1, N) with the table of chains attached, built once."""
    mask = subtree_end[None, None, None]
    mask.finery_chains = chains_of(subtree_end)  # type: ignore[attr-defined]
    return mask


def chains_of(subtree_end: torch.Tensor) -> list[Chain]:
    """The chains of a forest, in order. A chain ends at a leaf: a token whose subtree is itself."""
    ends = subtree_end.cpu().numpy()
    leaves = (ends == range(1, len(ends) + 1)).nonzero()[0]
    chains: list[Chain] = []
    start = root = 0
    for end in (leaves + 1).tolist():
        if start >= ends[root]:
            root = start
        visible = (ends[root:start] > start).nonzero()[0] + root
        chains.append(Chain(start, end, _spans(visible.tolist())))
        start = end
    return chains


def forest_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, H, N, d), key and value (1, K, N, d) -> (1, N, H, d). A window of w keys reaches back w - 1 tokens.

    UnsupportedAttention where a keyword with an effect is not known here (soft-cap, sinks, head masks ...).
    """
    _refuse(others)
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise UnsupportedAttention("the model attends in both directions")
    if attention_mask is None or attention_mask.shape != (1, 1, 1, query.shape[2]) or attention_mask.dtype != torch.int64:
        raise UnsupportedAttention("the model changes the attention mask before its layers see it")
    chains = getattr(attention_mask, "finery_chains", None) or chains_of(attention_mask.flatten())
    lengths = [chain.end - chain.start for chain in chains]
    parts = []
    for chain, q, k, v in zip(chains, query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True):
        if chain.above:
            k = torch.cat([*(key[:, :, a:b] for a, b in chain.above), k], 2)
            v = torch.cat([*(value[:, :, a:b] for a, b in chain.above), v], 2)
        mask = _chain_mask(q.shape[2], k.shape[2], sliding_window, q.device)
        out = F.scaled_dot_product_attention(
            q, k, v, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        parts.append(out.transpose(1, 2))  # (1, t, H, d)
    return torch.cat(parts, 1).contiguous(), None


def dense_mask(subtree_end: torch.Tensor, positions: torch.Tensor, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """The forest as a mask that is added to the scores of the model's own attention, (1, 1, N, N)."""
    at = torch.arange(len(subtree_end), device=subtree_end.device)
    visible = (at[None] <= at[:, None]) & (at[:, None] < subtree_end[None])  # query, key
    if window is not None:
        visible &= positions[:, None] - positions[None] < window
    blocked = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return blocked.masked_fill_(~visible, torch.finfo(dtype).min)[None, None]


def _chain_mask(t: int, s: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """bool (t, s), aligned to the bottom right; None where plain causal attention says the same."""
    if t == s and (window is None or s <= window):
        return None
    mask = torch.ones(t, s, dtype=torch.bool, device=device).tril_(s - t)
    return mask if window is None else mask.triu_(s - t - window + 1)


def _refuse(others: dict[str, Any]) -> None:
    for name, value in others.items():
        neutral = value is None or value is False or (isinstance(value, (int, float)) and value == 0)
        if not neutral and name not in WITHOUT_EFFECT:
            raise UnsupportedAttention(f"the model's attention uses `{name}`")


def _spans(indices: list[int]) -> tuple[tuple[int, int], ...]:
    """Runs of consecutive numbers as (start, end)."""
    spans: list[tuple[int, int]] = []
    for i in indices:
        if spans and spans[-1][1] == i:
            spans[-1] = (spans[-1][0], i + 1)
        else:
            spans.append((i, i + 1))
    return tuple(spans)


def _no_mask(*_: Any, **__: Any) -> None:
    """A mask made by the model itself is never wanted: the table is given."""
