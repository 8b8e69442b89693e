"""A packed pass as torch tensors: what the policy takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from finery.data.pack import Packed
from finery.types import Batch


def to_batch(packed: Packed) -> Batch:
    """The same pass as `types.Batch`, on the CPU; `Batch.to` moves it."""
    fields: dict[str, Any] = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in vars(packed).items()}
    return Batch(**fields)
