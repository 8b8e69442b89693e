"""Order is a pure function of (seed, epoch, step)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery.train.order import Order


@given(rows=st.integers(1, 60), batch=st.integers(1, 20), seed=st.integers(0, 5))
def test_each_row_comes_once_an_epoch(rows: int, batch: int, seed: int) -> None:
    order = Order([0] * rows, [1.0], batch, seed)
    epoch = [row for step in range(order.steps_per_epoch) for row in order.rows(step)]
    assert sorted(epoch) == list(range(rows))
    assert all(0 < len(order.rows(step)) <= batch for step in range(order.steps_per_epoch))


def test_a_step_is_the_same_whatever_was_asked_before() -> None:
    one, other = Order([0] * 50, [1.0], 8, 3), Order([0] * 50, [1.0], 8, 3)
    steps = list(range(21))
    assert [one.rows(s) for s in steps] == [other.rows(s) for s in reversed(steps)][::-1]


def test_seeds_and_epochs_shuffle_differently() -> None:
    order = Order([0] * 50, [1.0], 50, 3)
    assert order.rows(0) != order.rows(1)
    assert order.rows(0) != Order([0] * 50, [1.0], 50, 4).rows(0)


def test_weights_share_an_epoch_between_sources() -> None:
    order = Order([0] * 10 + [1] * 6, [0.5, 2.0], 4, 0)
    epochs = [
        [row for s in range(order.steps_per_epoch) for row in order.rows(e * order.steps_per_epoch + s)] for e in range(4)
    ]
    for epoch in epochs:
        counts = Counter(epoch)
        assert sum(n for row, n in counts.items() if row < 10) == 5
        assert [n for row, n in counts.items() if row >= 10] == [2] * 6
    for first, second in ((epochs[0], epochs[1]), (epochs[2], epochs[3])):  # two halves make a whole
        assert sorted(row for row in first + second if row < 10) == list(range(10))


@pytest.mark.parametrize(("epochs", "most", "steps"), [(3, None, 9), (0.5, None, 2), (0.01, None, 1), (3, 4, 4)])
def test_total_steps(epochs: float, most: int | None, steps: int) -> None:
    assert Order([0] * 10, [1.0], 4, 0).total_steps(epochs, most) == steps
