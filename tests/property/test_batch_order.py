"""Batching visits every sequence once an epoch and resumes exactly, whatever the sizes."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from decad.data.local import PackedData
from decad.data.position import DataPosition

sizes = st.integers(2, 40)
seeds = st.integers(0, 2**63 - 1)


def numbered(sequences: int, seed: int) -> PackedData:
    """Sequence i is [i, i]."""
    stream = torch.arange(sequences, dtype=torch.int32).repeat_interleave(2)
    return PackedData(stream, seq_len=2, held_out=0.2, seed=seed)


def read(data: PackedData, position: DataPosition, batches: list[int]) -> tuple[list[int], DataPosition]:
    seen: list[int] = []
    for size in batches:
        batch, position = data.batch(position, size)
        seen += batch.inputs[:, 0].tolist()
    return seen, position


@given(sizes, seeds, st.integers(1, 9), st.integers(0, 3))
def test_every_sequence_once_an_epoch(sequences: int, seed: int, batch_size: int, epoch: int) -> None:
    data = numbered(sequences, seed)
    n = data.train_sequences
    seen, _ = read(data, DataPosition(), [batch_size] * (-(-n * (epoch + 1) // batch_size)))
    assert set(Counter(seen[epoch * n : (epoch + 1) * n]).values()) == {1}


@given(sizes, seeds, st.lists(st.integers(1, 50), max_size=6), st.lists(st.integers(1, 50), max_size=6))
def test_a_fresh_reader_resumes_exactly(
    sequences: int, seed: int, before: list[int], after: list[int]
) -> None:
    whole, end = read(numbered(sequences, seed), DataPosition(), before + after)
    head, position = read(numbered(sequences, seed), DataPosition(), before)
    tail, resumed_end = read(numbered(sequences, seed), DataPosition.from_dict(position.to_dict()), after)
    assert head + tail == whole
    assert resumed_end == end == DataPosition(sum(before) + sum(after))


@given(sizes, seeds)
def test_training_and_held_out_sequences_are_all_there_is(sequences: int, seed: int) -> None:
    data = numbered(sequences, seed)
    train, _ = read(data, DataPosition(), [data.train_sequences])
    held_out = [row for batch in data.held_out_batches(3, sequences) for row in batch.inputs[:, 0].tolist()]
    assert sorted(train + held_out) == list(range(sequences))
    assert train
    assert held_out
