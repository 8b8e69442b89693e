"""Rows become passes, and the sequences of a pass become a forest that stores every shared prefix once.

Nodes lie depth-first, so one integer per token says who sees whom: key k is visible to query q iff k <= q < subtree_end[k].
Letters: N tokens of the pass, M predictions, S sequences, A answers, T tokens of a sequence.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from finery.types import Row, Sequence


@dataclass
class Packed:
    """One pass as numpy arrays; the fields are those of `types.Batch`."""

    ids: np.ndarray  # int64 (N,)
    positions: np.ndarray  # int64 (N,)
    subtree_end: np.ndarray  # int64 (N,)
    source: np.ndarray  # int64 (M,)
    target: np.ndarray  # int64 (M,)
    weight: np.ndarray  # float32 (M,)
    owner: np.ndarray  # int64 (M,)
    sequence_answer: np.ndarray  # int64 (S,)
    answer_group: np.ndarray  # int64 (A,)
    rows: list[int]
    sequence_tokens: int


def plan_passes(sizes: list[int], tokens_per_pass: int) -> list[list[int]]:
    """Which rows go through the model together: best fit, longest first; a row is never cut.

    `sizes` are tokens per row. Returns indices, ascending within a pass, passes ordered by their first row. A row bigger than
    `tokens_per_pass` gets a pass of its own.
    """
    passes: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, pass), ascending
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        found = bisect_left(room, (sizes[index], -1))
        if found < len(room):
            free, number = room.pop(found)
            passes[number].append(index)
        else:
            free, number = tokens_per_pass, len(passes)
            passes.append([index])
        insort(room, (free - sizes[index], number))
    return sorted(sorted(chosen) for chosen in passes)


def shared_tokens(sequences: list[Sequence]) -> int:
    """Tokens that the sequences take in a pass, a shared prefix counted once."""
    return sum(stop - start for _, start, stop, _ in _segments([sequence.ids for sequence in sequences]))


def pack(rows: list[Row]) -> Packed:
    """The forest of the rows' sequences. Prefixes are shared within a row; groups are the rows, in the order given."""
    sequences = [sequence for row in rows for sequence in row.sequences]
    first = np.cumsum([0, *(len(row.sequences) for row in rows)])
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    levels: list[tuple[int, int]] = []  # (depth in the tree, tokens) of each segment
    paths: list[list[np.ndarray]] = [[] for _ in sequences]  # where a sequence's tokens lie
    n_tokens = 0
    for begin, row in zip(first.tolist(), rows, strict=False):
        for members, start, stop, level in _segments([sequence.ids for sequence in row.sequences]):
            place = np.arange(n_tokens, n_tokens + stop - start)
            ids.append(row.sequences[members[0]].ids[start:stop])
            positions.append(np.arange(start, stop))
            levels.append((level, stop - start))
            for member in members:
                paths[begin + member].append(place)
            n_tokens += stop - start
    answers, answer_group, sequence_answer = _answers(rows)
    source, target, weight, owner = _predictions(sequences, paths)
    assert len(answers) == len(answer_group)
    return Packed(
        ids=_joined(ids, np.int64),
        positions=_joined(positions, np.int64),
        subtree_end=_subtree_ends(levels),
        source=source,
        target=target,
        weight=weight,
        owner=owner,
        sequence_answer=np.array(sequence_answer, np.int64),
        answer_group=np.array(answer_group, np.int64),
        rows=[row.sequences[0].row if row.sequences else -1 for row in rows],
        sequence_tokens=sum(len(sequence.ids) for sequence in sequences),
    )


def _segments(sequences: list[np.ndarray]) -> Iterator[tuple[list[int], int, int, int]]:
    """The trie of some token arrays, depth-first: (members, start, stop, level) of each run that all its members share."""
    stack = [(members, 0, 0) for members in _by_next_token(sequences, list(range(len(sequences))), 0)[::-1]]
    while stack:
        members, start, level = stack.pop()
        stop = _common_prefix([sequences[i] for i in members], start)
        yield members, start, stop, level
        stack += [(branch, stop, level + 1) for branch in _by_next_token(sequences, members, stop)[::-1]]


def _by_next_token(sequences: list[np.ndarray], members: list[int], at: int) -> list[list[int]]:
    """The members that go on, grouped by their token at `at`, in order of first appearance."""
    groups: dict[int, list[int]] = {}
    for i in members:
        if len(sequences[i]) > at:
            groups.setdefault(int(sequences[i][at]), []).append(i)
    return list(groups.values())


def _common_prefix(sequences: list[np.ndarray], start: int) -> int:
    """Length of the longest prefix that all share, known to be at least `start`."""
    stop = min(len(sequence) for sequence in sequences)
    for sequence in sequences[1:]:
        differs = np.flatnonzero(sequences[0][start:stop] != sequence[start:stop])
        if len(differs):
            stop = start + int(differs[0])
    return stop


def _subtree_ends(levels: list[tuple[int, int]]) -> np.ndarray:
    """For each token the first position after its subtree, int64 (N,). A subtree ends where a level as low follows."""
    bounds = np.cumsum([0, *(length for _, length in levels)])
    ends = np.empty(len(levels), np.int64)
    open_segments: list[int] = []
    for number, (level, _) in enumerate([*levels, (-1, 0)]):
        while open_segments and levels[open_segments[-1]][0] >= level:
            ends[open_segments.pop()] = bounds[number]
        open_segments.append(number)
    return np.repeat(ends, [length for _, length in levels])


def _answers(rows: list[Row]) -> tuple[dict[tuple[int, int], int], list[int], list[int]]:
    """Numbers for the pass's answers by (group, answer in the row), the group of each, and the answer of each sequence."""
    answers: dict[tuple[int, int], int] = {}
    answer_group: list[int] = []
    sequence_answer: list[int] = []
    for group, row in enumerate(rows):
        for sequence in row.sequences:
            key = (group, sequence.answer)
            if key not in answers:
                answers[key] = len(answers)
                answer_group.append(group)
            sequence_answer.append(answers[key])
    return answers, answer_group, sequence_answer


def _predictions(
    sequences: list[Sequence], paths: list[list[np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(source, target, weight, owner) wherever a token carries loss: the token before it on its own path predicts it."""
    source, target, weight, owner = [], [], [], []
    for number, sequence in enumerate(sequences):
        assert not len(sequence.loss) or sequence.loss[0] == 0, "nothing predicts the first token: its loss must be 0"
        trained = np.flatnonzero(sequence.loss)
        path = _joined(paths[number], np.int64)
        source.append(path[trained - 1])
        target.append(sequence.ids[trained])
        weight.append(sequence.loss[trained])
        owner.append(np.full(len(trained), number))
    return (
        _joined(source, np.int64),
        _joined(target, np.int64),
        _joined(weight, np.float32),
        _joined(owner, np.int64),
    )


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty(0, dtype)
