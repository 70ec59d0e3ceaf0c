"""Everything that runs on tensors runs on device "meta": a hidden .item() or host copy raises there.

The same runs record what each operation allocates: no temporary is as large as the block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from decad.core.adam import AdamState, local_step
from decad.core.blocks import Block, BlockPlan
from decad.core.coding import CHUNK_ELEMENTS, encoder
from decad.core.constants import AdamConstants
from decad.core.mixing import Mixer
from decad.core.moments import MomentRule, moment_rule
from decad.core.pieces import PIECE
from decad.core.section import Section

RULES = {name: moment_rule(name) for name in ("rowwise", "gossip", "signal", "none")} | {
    "printed": moment_rule("signal", unit="parameter", sign=-1)
}


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """Elements of the largest tensor that an operation made anew (views and in-place results are none)."""

    largest: int = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value, schema in zip(
            out if isinstance(out, tuple) else (out,), func._schema.returns, strict=False
        ):
            if isinstance(value, Tensor) and schema.alias_info is None:
                self.largest = max(self.largest, value.numel())
        return out


@pytest.fixture
def block() -> Block:
    """4.2 M elements in rows of 4096, and a vector of 100."""
    return BlockPlan.build([("b", ["w", "g"])], {"w": (1024, 4096), "g": (100,)})[0]


def vector(n: int) -> Tensor:
    return torch.empty(n, device="meta")


def largest_allocation(run: Callable[[], object]) -> int:
    seen = Allocations()  # type: ignore[no-untyped-call]  # as above
    with seen:
        run()
    return seen.largest


def test_the_instrument_sees_a_temporary() -> None:
    theta = vector(10 * PIECE)
    assert largest_allocation(lambda: theta.mul_(theta + 1)) == 10 * PIECE


@pytest.mark.parametrize("constants", [AdamConstants(), AdamConstants(weight_decay=0.1, clip=1.0)])
def test_the_local_step_needs_pieces_only(block: Block, constants: AdamConstants) -> None:
    theta, grad, state = vector(block.numel), vector(block.numel), AdamState.zeros(block.numel, "meta")
    assert largest_allocation(lambda: local_step(theta, grad, state, constants, 1e-3)) <= PIECE


@pytest.mark.parametrize("name", RULES)
def test_a_moment_rule_needs_pieces_only(block: Block, name: str) -> None:
    rule: MomentRule = RULES[name]
    state = AdamState(vector(block.numel), vector(block.numel), 1)
    d = {s: vector(n) for s, n in ({Section.BLOCK: block.numel} | rule.sections(block)).items()}

    def run() -> None:
        rule.outgoing(block, state)
        rule.apply(block, state, d, 1e-3, AdamConstants())

    assert largest_allocation(run) <= PIECE


def test_mixing_allocates_nothing(block: Block) -> None:
    size = CHUNK_ELEMENTS["fp32"]
    mixer = Mixer({Section.BLOCK: vector(block.numel)}, size, {Section.BLOCK: vector(block.numel)})
    values = vector(size)

    def run() -> None:
        mixer.add("a", Section.BLOCK, 0, 0.5, values)
        mixer.finish()

    assert largest_allocation(run) == 0


@pytest.mark.parametrize("encoding", sorted(CHUNK_ELEMENTS))
def test_encoding_needs_pieces_only(block: Block, encoding: str) -> None:
    source = encoder(encoding, {Section.BLOCK: vector(block.numel)})
    values = {Section.BLOCK: vector(block.numel), Section.SECOND: vector(block.rows)}
    assert largest_allocation(lambda: source.encode(values)) <= PIECE
