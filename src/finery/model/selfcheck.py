"""Every run checks itself: the packed model against the stock model, each sequence alone, before the first step.

The reference is the unmodified model with its own attention and its own full logits. Leaks are found by replacing the other
sequences' tokens: the log-probabilities must not move. The first layout that passes is taken, and said once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from finery.data.batch import to_batch
from finery.data.pack import pack
from finery.errors import ModelError
from finery.model.policy import LAYOUTS, Policy, base_of
from finery.types import Example, Row, Sequence

TOKENS = 32  # of a sequence in the first check: enough for everything that does not depend on length
MOST_TOKENS = 512  # of a sequence whose logits are all computed; of a longer one the tail's
TAIL = 256  # positions whose log-probabilities are compared
# (largest difference of a log-probability, of their mean; largest move by replaced tokens)
TOLERANCE = {torch.float32: (2e-4, 2e-5, 5e-5), torch.bfloat16: (0.5, 0.05, 0.25), torch.float16: (0.1, 0.01, 0.05)}


def settle_layout(policy: Policy, rows: list[Row], wanted: str = "auto") -> dict[str, Any]:
    """Set `policy.layout` (and its head) to the first layout that passes. The report is for events.jsonl.

    Keys: layout, head, gap and leak (largest, in nats), refused (layout -> why), tokens, recheck_lengths (limits in tokens
    that no checked sequence has crossed yet), sentence. ModelError where none passes, or the one that is wanted does not.
    """
    sequences = check_sequences(policy, rows)
    refused: dict[str, str] = {}
    with as_in_evaluation(policy):
        policy.layout = "padded"  # stock attention
        expected = [stock_logps(policy, sequence) for sequence in sequences]
        for layout in LAYOUTS if wanted == "auto" else (wanted,):
            policy.layout = layout
            for stock_head in (False, True):
                policy.stock_head = stock_head
                gap, leak, why = attempt(policy, sequences, expected)
                if not why:
                    return report(policy, sequences, gap, leak, refused)
                refused[layout] = why
    shown = "; ".join(f"{layout}: {why}" for layout, why in refused.items())
    raise ModelError(
        f"this model's log-probabilities are not those of its sequences alone ({shown})",
        f"layout {wanted}",
        "use layout=auto" if wanted != "auto" else "this model can't be trained here; please report it with its config.json",
    )


def recheck(policy: Policy, rows: list[Row], lengths: list[int], wanted: str = "auto") -> dict[str, Any] | None:
    """Settle again if a row is longer than one of `lengths` (a report's recheck_lengths); None where there is nothing to do."""
    longest = max((len(sequence.ids) for row in rows for sequence in row.sequences), default=0)
    if not any(longest > limit for limit in lengths):
        return None
    return settle_layout(policy, rows, wanted)


def limits(policy: Policy) -> list[int]:
    """Lengths in tokens at which a model begins to compute in another way: windows, chunks, the rope's original length."""
    config = base_of(policy.model).config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    parts = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    found = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    found += [getattr(config, "original_max_position_embeddings", None)]
    found += [part.get("original_max_position_embeddings") for part in parts]
    return sorted({int(value) for value in found if value})


def check_sequences(policy: Policy, rows: list[Row]) -> list[np.ndarray]:
    """Two short sequences of the data, the second with the first's beginning, and a third that stands alone."""
    pool = [sequence.ids for row in rows for sequence in row.sequences if len(sequence.ids) > 1]
    pool = sorted(pool, key=len, reverse=True) or [np.arange(2)]
    longest = pool[0]
    reach = max([limit + TOKENS for limit in limits(policy) if limit < len(longest)], default=TOKENS)
    first = longest[: max(TOKENS, reach)]
    other, third = pool[len(pool) // 2][:TOKENS], pool[-1][:TOKENS]
    shared = max(1, len(first) - 2 * TOKENS // 3)  # so that a branch, too, reaches over a window
    return [first, np.concatenate([first[:shared], other[::-1]]), third]


def attempt(policy: Policy, sequences: list[np.ndarray], expected: list[torch.Tensor]) -> tuple[float, float, str]:
    """(gap, leak, why not): one layout and head against the sequences alone."""
    dtype = base_of(policy.model).dtype
    largest, largest_mean, largest_move = TOLERANCE.get(dtype, TOLERANCE[torch.float32])
    try:
        found = packed_logps(policy, sequences)
        gaps = torch.cat([(a - b).abs() for a, b in zip(found, expected, strict=True)])
        gap = float(gaps.max())
        if not (gap <= largest and float(gaps.mean()) <= largest_mean):  # NaN fails too
            return gap, 0.0, f"log-probabilities differ by up to {gap:.1e}"
        leak = 0.0
        for kept in ((1,), (0, 2)):
            changed = packed_logps(policy, with_others_replaced(policy, sequences, kept))
            leak = max(leak, *(float((changed[number] - found[number]).abs().max()) for number in kept))
        if not leak <= largest_move:
            return gap, leak, f"sequences see one another: log-probabilities move by {leak:.1e}"
        return gap, leak, ""
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model raises on a mask that it does not understand is the answer
        return 0.0, 0.0, " ".join(f"{type(error).__name__}: {error}".split())[:200]


@torch.no_grad()
def stock_logps(policy: Policy, ids: np.ndarray) -> torch.Tensor:
    """Log-probabilities of the last tokens of one sequence by the model's own forward and its full logits, on the CPU."""
    model = base_of(policy.model)
    inputs = torch.from_numpy(ids.astype(np.int64)).to(model.device)[None]
    tail = {"logits_to_keep": TAIL + 1} if len(ids) > MOST_TOKENS else {}
    logits = model(input_ids=inputs, use_cache=False, **tail).logits[0].float()  # (T, V)
    logps = logits[:-1].log_softmax(-1).gather(1, inputs[0, 1 - len(logits) :, None])[:, 0]
    return logps[-TAIL:].cpu()


@torch.no_grad()
def packed_logps(policy: Policy, sequences: list[np.ndarray]) -> list[torch.Tensor]:
    """The same from one packed pass: the first two share what they can, the third is a row of its own."""
    parts = []
    for number, ids in enumerate(sequences):
        loss = np.zeros(len(ids), np.float32)
        loss[max(1, len(ids) - TAIL) :] = 1
        parts.append(Sequence(ids.astype(np.int32), loss, row=number // 2, answer=number % 2))
    batch = to_batch(pack([Row(Example(), parts[:2], 0), Row(Example(), parts[2:], 0)])).to(base_of(policy.model).device)
    logp = policy(batch).logp
    assert logp is not None
    return [logp[batch.owner == number].float().cpu() for number in range(len(sequences))]


def with_others_replaced(policy: Policy, sequences: list[np.ndarray], kept: tuple[int, ...]) -> list[np.ndarray]:
    """The same tree with other tokens in all sequences but the `kept`; what a kept one shares stays."""
    shared = int(np.cumprod([a == b for a, b in zip(sequences[0], sequences[1], strict=False)]).sum())
    vocabulary = base_of(policy.model).config.get_text_config().vocab_size
    replaced = []
    for number, ids in enumerate(sequences):
        keep = len(ids) if number in kept else shared if number < 2 else 0
        # a fixed stride keeps first tokens after a branch apart
        replaced.append(np.concatenate([ids[:keep], (ids[keep:] + 7 + vocabulary // 3) % vocabulary]))
    return replaced


def report(policy: Policy, sequences: list[np.ndarray], gap: float, leak: float, refused: dict[str, str]) -> dict[str, Any]:
    refused = {layout: why for layout, why in refused.items() if layout != policy.layout}
    longest = max(map(len, sequences))
    because = "".join(f"; not {layout}: {why}" for layout, why in refused.items())
    return {
        "layout": policy.layout,
        "head": "stock" if policy.stock_head else "chunked",
        "gap": gap,
        "leak": leak,
        "refused": refused,
        "tokens": sum(map(len, sequences)),
        "recheck_lengths": [limit for limit in limits(policy) if limit >= longest],
        "sentence": f"layout {policy.layout}: packed log-probabilities equal the stock model's to {gap:.0e}{because}",
    }


@contextmanager
def as_in_evaluation(policy: Policy) -> Iterator[None]:
    """Without dropout; training mode comes back afterwards."""
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
