"""The vocabulary. Data flows one way: rows -> Example -> Sequence -> Batch -> policy -> Scores -> objective -> Loss.

Letters in comments: T tokens of a sequence, N tokens of a pass, M predictions, S sequences, A answers, V vocabulary, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Part:
    """A piece of a message: text, or a media file by its path."""

    type: str  # text | image | video | audio
    text: str = ""
    path: str = ""


@dataclass(frozen=True)
class ToolCall:
    """A function that the assistant asks to be called, with its arguments as the JSON object that they are."""

    name: str
    arguments: dict[str, Any]
    id: str = ""


@dataclass(frozen=True)
class Message:
    """One turn. `weight` scales the loss of an assistant's turn; 0 keeps it as context only."""

    role: str  # one of ROLES
    content: str | list[Part] = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    weight: float = 1.0
    name: str = ""  # of the tool that answers
    tool_call_id: str = ""  # of the call that is answered


@dataclass(frozen=True)
class Example:
    """One row of any data set."""

    prompt: list[Message] = field(default_factory=list)  # sft trains every assistant turn in it too; elsewhere none
    answers: list[list[Message]] = field(default_factory=list)  # 1: sft, kto; 2: chosen, rejected; n: ranked; none: rolled out
    text: str = ""  # raw text instead of a conversation (pt)
    tools: list[dict[str, Any]] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)
    source: str = ""  # the file that it came from
    origin: str = ""  # "file:line" or "file:row N"


@dataclass
class Sequence:
    """T tokens that lie in one context. `loss[t]` is the weight of *emitting* `ids[t]`; 0 for prompts and tool output."""

    ids: np.ndarray  # int32 (T,)
    loss: np.ndarray  # float32 (T,)
    row: int = 0  # index of its row
    answer: int = 0  # index of its answer in the row: several sequences can belong to one answer


@dataclass
class Row:
    """An admitted row: what the objective's atom is made of. An atom is never cut over passes."""

    example: Example
    sequences: list[Sequence]
    tokens: int  # of all its sequences, a shared prefix counted once


@dataclass
class Batch:
    """One pass: a forest of segments in depth-first order. Key k is visible to query q iff k <= q < subtree_end[k]."""

    ids: torch.Tensor  # int64 (N,)
    positions: torch.Tensor  # int64 (N,): depth in the own sequence
    subtree_end: torch.Tensor  # int64 (N,)
    source: torch.Tensor  # int64 (M,): the position that predicts
    target: torch.Tensor  # int64 (M,): the token that it must predict
    weight: torch.Tensor  # float32 (M,): its loss weight
    owner: torch.Tensor  # int64 (M,): its sequence
    sequence_answer: torch.Tensor  # int64 (S,): the answer that a sequence belongs to
    answer_group: torch.Tensor  # int64 (A,): the row (pair, group) that an answer belongs to
    rows: list[int] = field(default_factory=list)  # row index of each group
    sequence_tokens: int = 0  # tokens of the sequences when each is stored alone: what sharing saved is the difference to N
    extra: dict[str, torch.Tensor] = field(default_factory=dict)  # ref_logps, label, advantage, old_logps, teacher ...

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        moved = {k: v.to(device, non_blocking=True) if hasattr(v, "to") else v for k, v in vars(self).items() if k != "extra"}
        return Batch(**moved, extra={k: v.to(device, non_blocking=True) for k, v in self.extra.items()})


@dataclass
class Scores:
    """What the objective asked for, by name; all (M,) unless said."""

    logp: torch.Tensor | None = None  # log-probability of the target
    hit: torch.Tensor | None = None  # bool: the target is the most likely token
    entropy: torch.Tensor | None = None
    mean_logp: torch.Tensor | None = None  # mean log-probability over the vocabulary
    value: torch.Tensor | None = None
    reward: torch.Tensor | None = None  # (S,)
    extra: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class Loss:
    """Sums, never means: the loop divides once by what the whole step holds."""

    terms: dict[str, tuple[torch.Tensor, float, str]]  # name -> (sum, weight, unit); unit: token, answer, pair, group
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)  # name -> (sum, count)
