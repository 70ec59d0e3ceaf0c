"""What a real exchange counts is what `decad.wire.counters` foretells, to the byte."""

from __future__ import annotations

import pytest
from support.exchanges import Mesh, Node, one_block, random_thetas

from decad.config import RunSpec
from decad.core.coding import CHUNK_ELEMENTS
from decad.core.layout import cut
from decad.core.section import Section
from decad.daemon.exchange import Exchange
from decad.wire import messages
from decad.wire.counters import ByteCounter, overhead_bytes, payload_bytes

BLOCK = one_block(20, 10)


def foretold(node: Node, step: int, full: bool, neighbours: int) -> ByteCounter:
    """One step's messages of ``node``, the phase's ``step``-th, to so many neighbours."""
    encoding, sizes = node.spec.encoding, node.coding.sizes
    header = messages.BlockHeader(
        run=int(node.spec.fingerprint[:16], 16),
        step=step,
        block=0,
        degree=neighbours,
        sequence=step,
        full=full or encoding == "fp32",
        updates=step + 1,
        chunks=len(cut(sizes, CHUNK_ELEMENTS[encoding])),
        extents=tuple(sorted(sizes.items())),
        compute_us=1,
    )
    counter = ByteCounter()
    for _ in range(neighbours):
        for section, payload in payload_bytes(sizes, encoding, full).items():
            counter.count(payload, payload, section)
        counter.count(overhead_bytes(header, encoding))
    return counter


def added(counters: list[ByteCounter]) -> ByteCounter:
    total = ByteCounter()
    for c in counters:
        total.block += c.block
        total.first_moment += c.first_moment
        total.second_moment += c.second_moment
        total.overhead += c.overhead
    return total


@pytest.mark.parametrize("encoding", ["fp32", "bf16-delta"])
@pytest.mark.parametrize("moments", ["rowwise", "gossip", "signal", "none"])
async def test_counters_match_the_closed_forms(
    moments: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHUNK_ELEMENTS, encoding, 64)
    spec = RunSpec.model_validate({"moments": moments, "encoding": encoding})
    async with Mesh(spec, random_thetas("abc", BLOCK.numel), BLOCK) as peers:
        await peers.join_all()
        gradients = random_thetas("abc", BLOCK.numel, seed=1)
        for step in range(3):
            assert all(not p.missing for p in await peers.step(step, gradients))
        a = peers.nodes["a"]
        expected = added([foretold(a, step, full=step == 0, neighbours=2) for step in range(3)])
        assert a.sent == expected
        # Every node sends as much, so a receives what it sends.
        assert a.received == expected


async def test_a_full_message_of_changes_matches_its_closed_form() -> None:
    spec = RunSpec(moments="gossip", encoding="bf16-delta")
    async with Mesh(spec, random_thetas("ab", BLOCK.numel), BLOCK) as peers:
        await peers.join_all()
        a, b = peers.nodes["a"], peers.nodes["b"]
        await peers.step(0)
        a.exchange.asked(a.links["b"], phase=0)
        await peers.step(1)
        assert a.sent == added([foretold(a, 0, True, 1), foretold(a, 1, True, 1)])
        assert b.sent == added([foretold(b, 0, True, 1), foretold(b, 1, False, 1)])
        assert a.received == b.sent
        assert b.received == a.sent


async def test_an_ask_of_a_phase_that_has_passed_costs_nothing() -> None:
    spec = RunSpec(moments="none", encoding="bf16-delta", inner_steps=2)
    async with Mesh(spec, random_thetas("ab", BLOCK.numel), BLOCK) as peers:
        await peers.join_all()
        for node in peers.nodes.values():
            node.begin_phase(1)
        a = peers.nodes["a"]
        a.exchange.asked(a.links["b"], phase=0)
        await peers.step(2)
        await peers.step(3)
        # The first of the phase whole, the second as changes.
        assert a.sent.block == 4 * BLOCK.numel + 2 * BLOCK.numel


async def test_each_neighbour_has_its_own_figures() -> None:
    exchange = Exchange(RunSpec(), ByteCounter(), ByteCounter())
    a, b = (exchange.attach(name, lambda phase: None) for name in "ab")
    a.received.count(10_000, 9_000, Section.BLOCK)
    assert a.received_meter.per_second() == 1_000
    assert b.received_meter.per_second() == 0
    assert exchange.neighbour("a") is a
    assert exchange.neighbour("c") is None
    assert (a.weight, a.late, a.distance) == (0, 0, -1)
