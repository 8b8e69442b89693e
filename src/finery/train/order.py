"""Which rows make which step: a pure function of (seed, epoch, step), so a resume needs no loader state and replays nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from finery.config.schema import Config
    from finery.data.prepare import Prepared

QUARTER = 0.25  # of the run: how often it evaluates and saves where the settings don't say


class Plan(NamedTuple):
    """What the settings mean in steps, for `check` and for the run itself."""

    order: Order
    steps: int
    evaluate_every: int  # 0: never
    save_every: int


def plan(config: Config, prepared: Prepared) -> Plan:
    """The plan of a run over these rows."""
    order = Order(prepared.source_of_row, prepared.weights, config.batch_size, config.seed)
    steps = order.total_steps(config.epochs, config.max_steps)
    watched = bool(prepared.validation or config.questions)
    return Plan(order, steps, every(config.evaluate_every, steps) if watched else 0, every(config.save_every, steps))


def every(setting: float | None, steps: int) -> int:
    """A setting such as `save_every` in steps: a number of steps, or below 1 a share of the run."""
    value = QUARTER if setting is None else setting
    return max(1, round(value * steps)) if value < 1 else int(value)


class Order:
    """The rows of every step of a run.

    `source_of_row[i]` is the source of row i, `weights[s]` how often a row of source s is used in an epoch. At 0.5 each epoch
    takes the next half, in an order that changes with each turn over the source; at 2 it takes every row twice.
    """

    def __init__(self, source_of_row: Sequence[int], weights: Sequence[float], batch_size: int, seed: int) -> None:
        sources = np.asarray(source_of_row, dtype=np.int64)
        self.rows_of_source = [np.flatnonzero(sources == s) for s in range(len(weights))]
        self.per_epoch = [max(1, round(w * len(r))) if len(r) else 0 for w, r in zip(weights, self.rows_of_source, strict=True)]
        self.batch_size, self.seed = batch_size, seed
        self.rows_per_epoch = sum(self.per_epoch)
        self.steps_per_epoch = math.ceil(self.rows_per_epoch / batch_size)
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def total_steps(self, epochs: float, max_steps: int | None) -> int:
        """Optimizer steps of the run: the last step of an epoch may be short, and counts."""
        steps = max(1, round(epochs * self.steps_per_epoch))
        return min(steps, max_steps) if max_steps else steps

    def rows(self, step: int) -> list[int]:
        """Rows of optimizer step `step` (from 0), at most `batch_size`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self.epoch(epoch)[place * self.batch_size : (place + 1) * self.batch_size].tolist()

    def _epoch(self, epoch: int) -> np.ndarray:
        taken = [self._from_source(s, epoch) for s in range(len(self.per_epoch))]
        return np.random.default_rng([self.seed, epoch]).permutation(np.concatenate(taken))

    def _from_source(self, source: int, epoch: int) -> np.ndarray:
        """The next `per_epoch` rows of an endless row of shuffles of the source."""
        rows, count = self.rows_of_source[source], self.per_epoch[source]
        first, last = epoch * count, (epoch + 1) * count
        if not count:
            return rows
        turns = range(first // len(rows), -(-last // len(rows)))
        shuffled = [np.random.default_rng([self.seed, source, turn, 1]).permutation(rows) for turn in turns]
        return np.concatenate(shuffled)[first - turns[0] * len(rows) :][:count]
