"""Properties of the packing, on random rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finery.data.batch import to_batch
from finery.data.pack import pack, plan_passes, shared_tokens
from finery.types import Example, Row, Sequence

ids = st.lists(st.integers(0, 2), min_size=1, max_size=9)  # few tokens: many shared prefixes
rows_of_ids = st.lists(st.lists(ids, min_size=1, max_size=5), min_size=1, max_size=4)


def make_rows(rows: list[list[list[int]]]) -> list[Row]:
    made = []
    for number, texts in enumerate(rows):
        sequences = []
        for answer, text in enumerate(texts):
            loss = (np.arange(len(text)) % 3).astype(np.float32) / 2  # the first token never
            sequences.append(Sequence(np.array(text, np.int32), loss, number + 10, answer // 2))
        made.append(Row(Example(), sequences, shared_tokens(sequences)))
    return made


@given(rows_of_ids)
def test_every_prediction_sees_exactly_its_own_prefix(texts):
    rows = make_rows(texts)
    packed = pack(rows)
    at = np.arange(len(packed.ids))
    sequences = [sequence for row in rows for sequence in row.sequences]
    expected = [(owner, t) for owner, sequence in enumerate(sequences) for t in np.flatnonzero(sequence.loss)]
    assert len(expected) == len(packed.source)
    for m, (owner, t) in enumerate(expected):
        q = packed.source[m]
        visible = np.flatnonzero((at <= q) & (q < packed.subtree_end))
        assert packed.ids[visible].tolist() == sequences[owner].ids[:t].tolist()
        assert packed.positions[visible].tolist() == list(range(t))
        assert (packed.owner[m], packed.target[m], packed.weight[m]) == (
            owner,
            sequences[owner].ids[t],
            sequences[owner].loss[t],
        )


@given(rows_of_ids)
def test_a_prefix_is_stored_once_and_never_over_rows(texts):
    rows = make_rows(texts)
    packed = pack(rows)
    prefixes = [len({tuple(text[:n]) for text in row for n in range(1, len(text) + 1)}) for row in texts]
    assert [row.tokens for row in rows] == prefixes
    assert len(packed.ids) == sum(prefixes)
    assert packed.sequence_tokens == sum(len(text) for row in texts for text in row)


@given(rows_of_ids)
def test_sequences_answers_and_groups_are_found_again(texts):
    packed = pack(make_rows(texts))
    of_sequence = [(group, answer // 2) for group, row in enumerate(texts) for answer in range(len(row))]
    assert packed.answer_group[packed.sequence_answer].tolist() == [group for group, _ in of_sequence]
    assert len(set(packed.sequence_answer.tolist())) == len(set(of_sequence)) == len(packed.answer_group)
    assert packed.rows == [number + 10 for number in range(len(texts))]


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 60))
def test_passes_hold_every_row_once_and_stay_in_their_budget(sizes, budget):
    passes = plan_passes(sizes, budget)
    assert sorted(index for chosen in passes for index in chosen) == list(range(len(sizes)))
    for chosen in passes:
        assert chosen == sorted(chosen)
        assert sum(sizes[i] for i in chosen) <= budget or len(chosen) == 1
    assert passes == plan_passes(list(sizes), budget)
    fullest = [sum(sizes[i] for i in chosen) for chosen in passes]
    assert sum(total <= budget // 2 for total in fullest) <= 1  # two half-empty passes would have been one


def test_many_rows_are_planned_in_a_moment():
    sizes = np.random.default_rng(0).integers(20, 900, 50_000).tolist()
    passes = plan_passes(sizes, 4096)
    assert len(passes) <= 1.02 * sum(sizes) / 4096


def test_deep_trees_need_no_recursion():
    texts = [[0] * n + [1] for n in range(1, 1500)]
    rows = make_rows([texts])
    assert rows[0].tokens == 1498 + 1 + 1499


def test_batches_are_tensors_of_the_right_types():
    import torch

    batch = to_batch(pack(make_rows([[[1, 2, 0], [1, 0]], [[2, 2]]])))
    assert batch.ids.tolist() == [1, 2, 0, 0, 2, 2]
    assert batch.subtree_end.tolist() == [4, 3, 3, 4, 6, 6]
    integers = (batch.ids, batch.positions, batch.subtree_end, batch.source, batch.target, batch.owner)
    assert {tensor.dtype for tensor in integers} == {torch.int64}
    assert batch.weight.dtype == torch.float32
