"""The policy: everything from a Batch to Scores happens in its `forward`, so wrappers (DDP, FSDP2, autocast) see all of it.

Layouts: `forest` (our attention function), `dense` (the same tree as a mask in the model's own attention) and `padded` (each
sequence alone in a row, sorted by length). Letters: N tokens, M predictions, S sequences, T tokens of the longest, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from finery.model import attention
from finery.model.head import score, score_logits, shape_of
from finery.types import Batch, Scores

LAYOUTS = ("forest", "dense", "padded")


class Policy(nn.Module):
    """A causal language model of transformers, with or without a peft adapter.

    `stock_head`: logits come from the model's own forward, where our chunked head would give others.
    """

    def __init__(self, model: nn.Module, layout: str = "forest") -> None:
        super().__init__()
        attention.register()
        self.model = model
        self.stock_head = False
        self._stock_attention = base_of(model).config._attn_implementation
        if self._stock_attention == attention.NAME:
            self._stock_attention = "sdpa"
        self.layout = layout

    @property
    def layout(self) -> str:
        return self._layout

    @layout.setter
    def layout(self, layout: str) -> None:
        assert layout in LAYOUTS, layout
        self._layout = layout
        self.use_attention(attention.NAME if layout == "forest" else self._stock_attention)

    @property
    def stock_attention(self) -> str:
        """The name of the attention that the model came with."""
        return self._stock_attention

    def use_attention(self, name: str) -> None:
        """Switch the attention function of all layers."""
        model = base_of(self.model)
        if model.config._attn_implementation != name:
            model.set_attn_implementation(name)

    def forward(self, batch: Batch, needs: tuple[str, ...] = ("logp",)) -> Scores:
        """Scores of the batch's M predictions, in their order: `logp`, and `hit`, `entropy`, `mean_logp` where needed."""
        if len(batch.source) == 0:
            return self._nothing(batch)
        if self.layout == "padded":
            return self._padded(batch, needs)
        inputs = {
            "input_ids": batch.ids[None],
            "position_ids": batch.positions[None],
            "attention_mask": self._mask(batch),
            "use_cache": False,
        }
        model = base_of(self.model)
        if self.stock_head:
            logits = model(**inputs, logits_to_keep=batch.source).logits  # (1, M, V)
            return score_logits(logits[0], batch.target, needs)
        hidden = model.base_model(**inputs).last_hidden_state  # (1, N, D)
        return self._score(hidden[0].index_select(0, batch.source), batch.target, needs)

    def _score(self, hidden: torch.Tensor, target: torch.Tensor, needs: tuple[str, ...]) -> Scores:
        """Through the output matrix, in chunks: hidden (M, D), target (M,)."""
        model = base_of(self.model)
        return score(hidden, target, model.get_output_embeddings(), shape_of(model.config.get_text_config()), needs)

    def _mask(self, batch: Batch) -> Any:
        """What goes in as `attention_mask`: the table of the forest, or masks for the kinds of layers that the model has."""
        if self.layout == "forest":
            return attention.forest_mask(batch.subtree_end)
        model = base_of(self.model)
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ())
        window = getattr(config, "sliding_window", None)

        def mask(window: int | None) -> torch.Tensor:
            return attention.dense_mask(batch.subtree_end, batch.positions, window, model.dtype)

        if kinds <= {"full_attention"}:
            return mask(None if kinds else window)
        return {kind: mask(window if kind == "sliding_attention" else None) for kind in kinds}

    def _padded(self, batch: Batch, needs: tuple[str, ...]) -> Scores:
        """Each sequence in a row of its own, padded on the right, rows of similar length together."""
        model = base_of(self.model)
        picked, orders = [], []
        for ids, mask, row, column, order in padded_rows(batch, rope_boundary(model.config)):
            inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
            orders.append(order)
            if self.stock_head:
                columns, place = column.unique(return_inverse=True)
                logits = model(**inputs, logits_to_keep=columns).logits  # (rows, columns, V)
                picked.append(logits[row, place])
            else:
                picked.append(model.base_model(**inputs).last_hidden_state[row, column])
        back = torch.cat(orders).argsort()
        gathered = torch.cat(picked).index_select(0, back)
        return score_logits(gathered, batch.target, needs) if self.stock_head else self._score(gathered, batch.target, needs)

    def _nothing(self, batch: Batch) -> Scores:
        """No predictions: empty scores that still hang on the parameters, so that a backward finds a graph."""
        zero = torch.zeros((), device=batch.ids.device)
        for parameter in self.parameters():
            if parameter.requires_grad:
                zero = zero + parameter.sum() * 0.0
        return Scores(logp=zero.expand(0), hit=torch.zeros(0, dtype=torch.bool, device=batch.ids.device))


def base_of(model: Any) -> Any:
    """The transformers model inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def rope_boundary(config: Any) -> int | None:
    """The length in tokens beyond which the rope of a whole pass changes (longrope, dynamic); None where it never does."""
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") not in ("longrope", "dynamic"):
        return None
    original = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return original or config.max_position_embeddings


def padded_rows(batch: Batch, boundary: int | None = None) -> list[tuple[torch.Tensor, ...]]:
    """The sequences that predict something, padded on the right: (ids (R, T), mask (R, T), row, column, prediction) by group.

    `row` and `column` say where the group's predictions come from, `prediction` which of the M they are. A group's padded
    size stays within the size of the batch, so short sequences don't ride beside a long one; no group holds sequences on
    both sides of `boundary`.
    """
    device = batch.ids.device
    at = torch.arange(len(batch.ids), device=device)
    paths = []
    for owner in batch.owner.unique().tolist():
        mine = (batch.owner == owner).nonzero()[:, 0]
        last = batch.source[mine].max()
        paths.append((mine, ((at <= last) & (batch.subtree_end > last)).nonzero()[:, 0]))
    paths.sort(key=lambda pair: -len(pair[1]))
    groups: list[tuple[torch.Tensor, ...]] = []
    while paths:
        width = len(paths[0][1])
        count = max(1, len(batch.ids) // width)
        if boundary is not None and width > boundary:
            count = min(count, sum(len(path) > boundary for _, path in paths))
        group, paths = paths[:count], paths[count:]
        ids = torch.zeros(len(group), width, dtype=torch.int64, device=device)
        mask = torch.zeros_like(ids)
        for number, (_, path) in enumerate(group):
            ids[number, : len(path)] = batch.ids[path]
            mask[number, : len(path)] = 1
        mine = torch.cat([mine for mine, _ in group])
        row = torch.cat([torch.full_like(mine, number) for number, (mine, _) in enumerate(group)])
        groups.append((ids, mask, row, batch.positions[batch.source[mine]], mine))
    return groups
