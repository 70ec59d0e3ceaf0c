"""Byte counters, and the closed forms against messages really built."""

from __future__ import annotations

import pytest
import torch

from decad.core.adam import AdamState
from decad.core.blocks import Block, BlockPlan
from decad.core.coding import CHUNK_ELEMENTS, encoder
from decad.core.layout import cut
from decad.core.moments import moment_rule
from decad.core.section import Section
from decad.wire import messages
from decad.wire.counters import ByteCounter, overhead_bytes, payload_bytes

RULES = ("rowwise", "gossip", "signal", "none")
SMOLLM2_LAYER = {
    "q": (576, 576),
    "k": (192, 576),
    "v": (192, 576),
    "o": (576, 576),
    "gate": (1536, 576),
    "up": (1536, 576),
    "down": (576, 1536),
    "norm1": (576,),
    "norm2": (576,),
}


def block_of(shapes: dict[str, tuple[int, ...]]) -> Block:
    return BlockPlan.build([("layer", list(shapes))], shapes)[0]


def header_of(sizes: dict[Section, int], chunk_elements: int, full: bool) -> messages.BlockHeader:
    extents = tuple(sorted(sizes.items()))
    chunks = len(cut(sizes, chunk_elements))
    return messages.BlockHeader(2**63 + 5, 1234, 29, 4, 130, full, 14, chunks, extents)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("encoding", ["fp32", "bf16-delta"])
@pytest.mark.parametrize("rule", RULES)
def test_the_closed_forms_equal_what_is_built(rule: str, encoding: str, full: bool) -> None:
    block = block_of({"matrix": (700, 1000), "vector": (321,)})
    moments = moment_rule(rule)
    sizes = {Section.BLOCK: block.numel, **moments.sections(block)}
    code = encoder(encoding, {Section.BLOCK: torch.zeros(block.numel)})
    state = AdamState.zeros(block.numel, torch.device("cpu"))
    code.encode({Section.BLOCK: torch.ones(block.numel), **moments.outgoing(block, state)})
    header = header_of(sizes, code.chunk_elements, full or code.full_only)
    counted = ByteCounter()
    counted.count(len(messages.header(header)))
    for section, index, _, _ in cut(sizes, code.chunk_elements):
        payload = code.payload(section, index, full)
        counted.count(len(messages.chunk(section, index, payload)), payload.nbytes, section)
    payloads = payload_bytes(sizes, encoding, full)
    assert counted == ByteCounter(
        block=payloads[Section.BLOCK],
        first_moment=payloads.get(Section.FIRST, 0),
        second_moment=payloads.get(Section.SECOND, 0),
        overhead=overhead_bytes(header, encoding),
    )


@pytest.mark.parametrize("encoding", ["fp32", "bf16-delta"])
@pytest.mark.parametrize("rule", RULES)
def test_overhead_of_a_smollm2_layer_is_below_one_percent(rule: str, encoding: str) -> None:
    block = block_of(dict(SMOLLM2_LAYER))
    assert block.numel == 3_540_096
    sizes = {Section.BLOCK: block.numel, **moment_rule(rule).sections(block)}
    header = header_of(sizes, CHUNK_ELEMENTS[encoding], full=encoding == "fp32")
    assert overhead_bytes(header, encoding) <= 0.01 * sum(payload_bytes(sizes, encoding).values())


def test_a_header_of_zeros_costs_as_foretold() -> None:
    header = messages.BlockHeader(0, 0, 0, 0, 0, False, 0, 0, ())
    assert overhead_bytes(header, "fp32") == len(messages.header(header))


def test_a_child_also_counts_for_its_parent_and_tells_its_watcher() -> None:
    seen: list[int] = []
    parent = ByteCounter()
    child = parent.child(seen.append)
    child.count(110, 100, Section.SECOND)
    child.count_fetch(7)
    assert child == parent == ByteCounter(second_moment=100, overhead=10, fetch=7)
    assert seen == [110, 7]
    assert parent.total == 117
