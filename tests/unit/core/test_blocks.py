from __future__ import annotations

import pytest
import torch

from decad.core.blocks import Block, BlockPlan, Rows, Slot
from decad.errors import InternalError

SHAPES = {"embed": (4, 3), "norm": (3,), "scale": ()}


def test_slots_follow_each_other_in_the_order_given() -> None:
    plan = BlockPlan.build([("in", ["norm", "embed"]), ("out", ["scale"])], SHAPES)
    assert plan[0] == Block(0, "in", (Slot("norm", (3,), 0), Slot("embed", (4, 3), 3)))
    assert plan[1] == Block(1, "out", (Slot("scale", (), 0),))


def test_sizes() -> None:
    plan = BlockPlan.build([("in", ["norm", "embed"]), ("out", ["scale"])], SHAPES)
    assert (len(plan), plan.numel) == (2, 16)
    assert [(block.numel, block.rows) for block in plan.blocks] == [(15, 5), (1, 1)]


def test_a_vector_is_one_row_and_a_matrix_one_a_line() -> None:
    block = BlockPlan.build([("b", ["norm", "embed"])], {"norm": (3,), "embed": (4, 3)})[0]
    flat = torch.arange(15.0)
    assert block.row_means(flat).tolist() == [1.0, 4.0, 7.0, 10.0, 13.0]


@pytest.mark.parametrize(
    ("groups", "complaint"),
    [
        ([("a", ["norm", "embed"])], "scale, or some of its rows, is in no block"),
        ([("a", ["norm", "embed", "scale"]), ("b", ["norm"])], "norm is in several blocks"),
    ],
)
def test_every_parameter_is_in_exactly_one_block(groups: list[tuple[str, list[str]]], complaint: str) -> None:
    with pytest.raises(InternalError, match=complaint):
        BlockPlan.build(groups, SHAPES)


def test_the_fingerprint_tells_names_shapes_and_grouping_apart() -> None:
    plans = [
        BlockPlan.build([("a", ["x", "y"])], {"x": (2, 3), "y": (1,)}),
        BlockPlan.build([("a", ["x", "y"])], {"x": (3, 2), "y": (1,)}),
        BlockPlan.build([("a", ["y", "x"])], {"x": (2, 3), "y": (1,)}),
        BlockPlan.build([("a", ["x"]), ("b", ["y"])], {"x": (2, 3), "y": (1,)}),
        BlockPlan.build([("b", ["x", "y"])], {"x": (2, 3), "y": (1,)}),
    ]
    assert len({plan.fingerprint for plan in plans}) == len(plans)


def test_the_part_of_a_parameter_that_lies_in_a_slot() -> None:
    plan = BlockPlan.build([("a", [Rows("w", 0, 2)]), ("b", [Rows("w", 2, 5), "s"])], {"w": (5, 3), "s": ()})
    whole, scalar = torch.arange(15.0).view(5, 3), torch.tensor(7.0)
    assert torch.equal(plan[0].slots[0].part_of(whole), whole[:2])
    assert torch.equal(plan[1].slots[0].part_of(whole), whole[2:])
    plan[1].slots[1].part_of(scalar).zero_()
    assert scalar == 0
