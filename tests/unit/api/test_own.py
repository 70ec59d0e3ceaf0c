"""A program's own batches and data, and the hash of its module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from decad.api import Batch
from decad.api.own import OwnBatch, OwnData, fingerprint, token_batch
from decad.core.batch import Examples
from decad.data.position import DataPosition
from decad.errors import DataError


class Labelled(NamedTuple):
    image: Tensor
    label: Tensor


def data(of: Any, held_out: Any = (), seed: int = 1) -> OwnData:
    return OwnData(of, held_out, default_collate, OwnBatch, seed)


def value(batch: Examples) -> Any:
    assert isinstance(batch, OwnBatch)
    return batch.value


def drawn(source: OwnData, start: int, steps: int, size: int = 4) -> list[int]:
    """The numbers in some batches."""
    position, found = DataPosition(start), []
    for _ in range(steps):
        batch, position = source.batch(position, size)
        found += value(batch).tolist()
    return found


# -- batches


@pytest.mark.parametrize(
    "whole",
    [
        torch.arange(5),
        (torch.arange(5), torch.arange(10).view(5, 2)),
        {"x": torch.arange(5), "more": [torch.arange(5), "kept as it is"]},
        Labelled(torch.arange(10).view(5, 2), torch.arange(5)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_batch_is_taken_in_parts_of_the_same_kind(whole: Any) -> None:
    parts = OwnBatch(whole).split(2)
    assert [part.predictions for part in parts] == [2, 2, 1]
    assert all(type(part.value) is type(whole) for part in parts)
    first = parts[0].value
    inner = (
        first
        if isinstance(first, Tensor)
        else next(iter(first.values() if isinstance(first, dict) else first))
    )
    assert inner.shape[0] == 2


def test_a_batch_that_is_small_enough_is_not_taken_apart() -> None:
    batch = OwnBatch(torch.arange(3))
    assert batch.split(3) == [batch] == batch.split(0)


def test_a_batch_goes_to_a_device_as_a_whole() -> None:
    moved = OwnBatch((torch.arange(3), [torch.arange(3)])).to(torch.device("meta"))
    assert moved.value[0].device.type == moved.value[1][0].device.type == "meta"


def test_what_is_no_token_batch_is_refused() -> None:
    with pytest.raises(DataError, match=r"A list came as a batch.*decad\.api\.Batch"):
        token_batch([1, 2])
    batch = Batch(torch.zeros(1, 2), torch.zeros(1, 2))
    assert token_batch(batch) is batch


# -- examples with numbers


def test_each_example_is_drawn_once_an_epoch_in_an_order_of_each_epoch() -> None:
    source = data(range(10))
    first, second = drawn(source, 0, 5, size=2), drawn(source, 10, 5, size=2)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_a_position_goes_on_where_it_was() -> None:
    assert drawn(data(range(10)), 8, 4) == drawn(data(range(10)), 0, 6)[8:]


def test_another_seed_is_another_order() -> None:
    assert drawn(data(range(10), seed=1), 0, 2) != drawn(data(range(10), seed=2), 0, 2)


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match="length of data is 0"):
        data([])


def test_held_out_examples_come_in_their_order_up_to_the_limit() -> None:
    source = data(range(10), held_out=range(7))
    assert [value(b).tolist() for b in source.held_out_batches(3, 5)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [value(b).tolist() for b in source.held_out_batches(3, 2)] == [[0, 1, 2], [3, 4, 5]]


# -- iterables


class Counting(IterableDataset[int]):
    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


@pytest.mark.parametrize(
    "batches",
    [Counting(), DataLoader(TensorDataset(torch.arange(8)), batch_size=2)],
    ids=["IterableDataset", "DataLoader"],
)
def test_each_item_of_an_iterable_is_a_batch_and_it_begins_anew_at_its_end(batches: Any) -> None:
    source, position = data(batches), DataPosition()
    seen = []
    for _ in range(6):
        batch, position = source.batch(position, 99)
        seen.append(value(batch))
    assert [str(item) for item in seen] == [str(item) for item in [*batches, *batches][:6]]


def test_an_iterator_that_has_ended_is_told_of() -> None:
    source = data(iter([torch.zeros(1)]))
    _, position = source.batch(DataPosition(), 1)
    with pytest.raises(DataError, match="come to its end"):
        source.batch(position, 1)


def test_held_out_batches_of_an_iterable_are_the_same_each_time() -> None:
    source = data(range(4), held_out=DataLoader(TensorDataset(torch.tensor([1, 2, 3])), batch_size=2))
    looks = [[value(b)[0].tolist() for b in source.held_out_batches(9, 1)] for _ in range(2)]
    assert looks == [[[1, 2]], [[1, 2]]]


# -- the module


def module() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def test_equal_modules_have_equal_hashes() -> None:
    assert fingerprint(module()) == fingerprint(module())


@pytest.mark.parametrize("name", ["0.weight", "1.running_mean"])
def test_one_other_value_is_another_hash(name: str) -> None:
    other = module()
    other.state_dict()[name].view(-1)[0] += 1
    assert fingerprint(other) != fingerprint(module())


def test_another_dtype_is_another_hash() -> None:
    zeros = nn.Parameter(torch.zeros(1))
    assert fingerprint(nn.ParameterList([zeros])) != fingerprint(nn.ParameterList([zeros]).bfloat16())
