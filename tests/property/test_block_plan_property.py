from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decad.core.blocks import Block, BlockPlan

shapes = st.lists(st.integers(1, 5), max_size=3).map(tuple)
groups = st.lists(st.lists(shapes, min_size=1, max_size=4), min_size=1, max_size=4)


def build(sizes: list[list[tuple[int, ...]]]) -> BlockPlan:
    named = [
        (f"b{b}", {f"b{b}.p{p}": shape for p, shape in enumerate(group)}) for b, group in enumerate(sizes)
    ]
    every = {name: shape for _, members in named for name, shape in members.items()}
    return BlockPlan.build([(block, list(members)) for block, members in named], every)


def iota(block: Block) -> torch.Tensor:
    return torch.arange(float(block.numel))


@settings(deadline=None, max_examples=50)
@given(groups)
def test_views_cover_every_element_once(sizes: list[list[tuple[int, ...]]]) -> None:
    plan = build(sizes)
    for block, group in zip(plan.blocks, sizes, strict=True):
        views = block.views(iota(block))
        assert [tuple(view.shape) for view in views.values()] == group
        assert torch.equal(torch.cat([view.flatten() for view in views.values()]), iota(block))
    assert plan.numel == sum(math.prod(shape) for group in sizes for shape in group)


@settings(deadline=None, max_examples=50)
@given(groups)
def test_views_share_the_vectors_memory(sizes: list[list[tuple[int, ...]]]) -> None:
    for block in build(sizes).blocks:
        flat = torch.zeros(block.numel)
        for view in block.views(flat).values():
            view.fill_(1.0)
        assert bool((flat == 1).all())


@settings(deadline=None, max_examples=50)
@given(groups)
def test_row_means_are_the_means_of_the_parameters_rows(sizes: list[list[tuple[int, ...]]]) -> None:
    for block in build(sizes).blocks:
        flat = iota(block).sqrt()
        expected = [
            view.mean(dim=-1).flatten() if view.dim() > 1 else view.mean().reshape(1)
            for view in block.views(flat).values()
        ]
        assert torch.allclose(block.row_means(flat), torch.cat(expected))
        assert block.row_means(flat).numel() == block.rows


@settings(deadline=None, max_examples=50)
@given(groups)
def test_rows_pair_each_element_with_its_rows_value(sizes: list[list[tuple[int, ...]]]) -> None:
    for block in build(sizes).blocks:
        flat = torch.zeros(block.numel)
        for values, row in block.by_rows(flat, torch.arange(float(block.rows))):
            values.add_(row)
        assert torch.equal(block.row_means(flat), torch.arange(float(block.rows)))


@settings(deadline=None, max_examples=50)
@given(groups)
def test_equal_plans_have_equal_fingerprints(sizes: list[list[tuple[int, ...]]]) -> None:
    assert build(sizes).fingerprint == build(sizes).fingerprint
    grown = [*sizes[:-1], [*sizes[-1], (2,)]]
    assert build(sizes).fingerprint != build(grown).fingerprint
