"""What is held out is decided by what rows say: not by their order, and equal rows stay on one side."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery.data.split import content_key, held_out
from finery.errors import DataError
from finery.types import Example, Message, ToolCall


def key(text: str) -> bytes:
    return content_key(Example([Message("user", text)], [[Message("assistant", "x")]], source="file", origin=text))


@given(
    texts=st.lists(st.integers(0, 30).map(str), min_size=2, max_size=60),
    wanted=st.one_of(st.floats(0.01, 0.9), st.integers(1, 20)),
    seed=st.integers(0, 9),
)
def test_properties(texts: list[str], wanted: float, seed: int) -> None:
    keys = [key(text) for text in texts]
    try:
        chosen = {keys[i] for i in held_out(keys, wanted, "rows")}
    except DataError:
        assert len(set(keys)) == 1 or (wanted >= 1 and wanted >= len(keys)) or round(wanted * len(keys)) >= len(keys)
        return
    rest = {keys[i] for i in range(len(keys)) if keys[i] not in chosen}
    assert chosen and rest  # both sides have rows
    assert len(held_out(keys, wanted, "rows")) == sum(k in chosen for k in keys)  # equal rows stay together
    shuffled = random.Random(seed).sample(keys, len(keys))
    assert {shuffled[i] for i in held_out(shuffled, wanted, "rows")} == chosen


def test_the_number_is_exact_without_repeats() -> None:
    keys = [key(str(i)) for i in range(1000)]
    assert len(held_out(keys, 0.1, "rows")) == 100 and len(held_out(keys, 7, "rows")) == 7
    assert len(held_out(keys[:5], 0.01, "rows")) == 1


def test_more_rows_move_few() -> None:
    keys = [key(str(i)) for i in range(1100)]
    before = {keys[i] for i in held_out(keys[:1000], 0.1, "rows")}
    after = {keys[i] for i in held_out(keys, 0.1, "rows")}
    assert len(before - after) <= 25  # the threshold moves a little, rows do not jump


def test_impossible_shares() -> None:
    with pytest.raises(DataError, match="nothing is left"):
        held_out([key("a"), key("b")], 2, "rows")
    with pytest.raises(DataError, match="say the same"):
        held_out([key("a")] * 4, 0.5, "rows")


def test_what_a_row_says_is_all_that_counts() -> None:
    base = Example([Message("user", "a")], [[Message("assistant", "b")]], source="x", origin="x:1")
    assert content_key(base) == content_key(Example(base.prompt, base.answers, source="y", origin="y:9"))
    others = [
        Example(base.prompt, [[Message("assistant", "b", weight=0.5)]]),
        Example(base.prompt, [[Message("assistant", "b", "thought")]]),
        Example(base.prompt, [[Message("assistant", "b", tool_calls=(ToolCall("f", {}),))]]),
        Example(base.prompt, base.answers, tools=[{"type": "function"}]),
        Example(base.prompt, base.answers, labels={"label": True}),
        Example(text="a"),
        Example([Message("system", "a")], base.answers),
    ]
    assert len({content_key(base), *map(content_key, others)}) == len(others) + 1
