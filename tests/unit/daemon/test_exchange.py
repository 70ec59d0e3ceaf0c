"""The exchange of one block among two or three peers over memory links: what is mixed, and what must not be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import torch
from support.exchanges import Mesh, Node, one_block, random_thetas, settled
from torch import Tensor

from decad.config import RunSpec
from decad.core.coding import CHUNK_ELEMENTS
from decad.core.memory import bytes_of
from decad.core.overlay import mixing_matrix
from decad.core.round import WINDOW, Reason
from decad.core.section import Section
from decad.errors import PeerError, PoisonError, ProtocolError
from decad.wire import messages
from decad.wire.transport import Link

BLOCK = one_block(4, 6)
CHUNK = 8
"""Elements of a chunk in the tests that need several: three a message."""


def mesh(*names: str, overlay: str = "full", encoding: str = "fp32", moments: str = "none") -> Mesh:
    spec = RunSpec.model_validate(
        {"overlay": overlay, "encoding": encoding, "moments": moments, "inner_steps": 4}
    )
    return Mesh(spec, random_thetas(names, BLOCK.numel), BLOCK)


@pytest.mark.parametrize("encoding", ["fp32", "bf16-delta"])
@pytest.mark.parametrize("overlay", ["full", "ring", "exponential"])
async def test_a_step_multiplies_by_the_mixing_matrix(overlay: str, encoding: str) -> None:
    names = [f"{i:02}" for i in range(5)]
    async with mesh(*names, overlay=overlay, encoding=encoding) as peers:
        matrix = mixing_matrix(overlay, names)
        await peers.join(
            *((a, b) for i, a in enumerate(names) for j, b in enumerate(names) if i < j and matrix[i, j])
        )
        for step in range(3):
            before = peers.thetas().double()
            proceeds = await peers.step(step)
            assert {p.reason for p in proceeds} == {Reason.COMPLETE}
            # What bf16 rounds off a change, its last 16 bits, is not mixed before the next step.
            tolerance = 1e-6 if encoding == "fp32" else 2e-2
            torch.testing.assert_close(peers.thetas().double(), matrix @ before, atol=tolerance, rtol=0)


async def test_both_ends_of_an_edge_use_one_weight() -> None:
    async with mesh("a", "b", "c", overlay="edges:a-b,b-c") as peers:
        await peers.join(("a", "b"), ("b", "c"))
        await peers.step(0)
        a, b, c = (peers.nodes[name].links for name in "abc")
        assert a["b"].weight == b["a"].weight == b["c"].weight == c["b"].weight == 1 / 3


async def test_the_average_stays_with_bf16_changes() -> None:
    async with mesh("a", "b", "c", encoding="bf16-delta") as peers:
        await peers.join_all()
        before = peers.thetas().double().mean(dim=0)
        for step in range(4):
            await peers.step(step)
        torch.testing.assert_close(peers.thetas().double().mean(dim=0), before, atol=1e-6, rtol=0)
        spread = peers.thetas() - before.float()
        assert float(spread.norm()) < 1e-3


async def test_a_message_of_a_later_step_waits_until_that_step_opens() -> None:
    async with mesh("a", "b") as peers:
        await peers.join_all()
        a, b = peers.nodes["a"], peers.nodes["b"]
        await peers.step(0)
        ahead = asyncio.create_task(a.step(1))
        await settled()
        before = b.theta.clone()
        b.open(1)
        b.half_step()
        proceed, _ = await asyncio.gather(b.mix(), ahead)
        assert proceed.reason is Reason.COMPLETE
        torch.testing.assert_close(b.theta, before)  # equal after step 0
        assert b.links["a"].weight == 0.5


async def test_who_is_a_step_ahead_is_not_waited_for() -> None:
    async with mesh("a", "b") as peers:
        await peers.join_all()
        a, b = peers.nodes["a"], peers.nodes["b"]
        a.open(0, [])
        a.half_step()
        await a.mix()
        ahead = asyncio.create_task(a.step(1))
        await settled()
        own = b.theta.clone()
        proceed = await b.step(0)
        assert (proceed.reason, proceed.missing, proceed.unheard) == (Reason.LOST, ("a",), ("a",))
        assert torch.equal(b.theta, own)
        await b.step(1)
        assert (await ahead).reason is Reason.COMPLETE


async def test_a_neighbour_that_claims_a_step_far_ahead_holds_up_nobody() -> None:
    async with mesh("a", "b", "c") as peers:
        await peers.join_all()
        peers.nodes["c"].open(10**15)
        peers.nodes["c"].half_step()
        boast = asyncio.create_task(peers.nodes["c"].mix(computed=0.001))
        await settled()
        for step in range(3):
            pair = [peers.nodes[name].step(step) for name in "ab"]
            assert [p.missing for p in await asyncio.gather(*pair)] == [("c",), ("c",)]
        await boast


@pytest.mark.parametrize("moments", ["none", "gossip"])
async def test_a_late_message_is_decoded_but_not_mixed(moments: str) -> None:
    async with mesh("a", "b", encoding="bf16-delta", moments=moments) as peers:
        await peers.join_all()
        a, b = peers.nodes["a"], peers.nodes["b"]
        await peers.step(0)
        a.open(1)
        a.half_step()
        own = a.theta.clone()
        waiting = asyncio.create_task(a.mix())
        await settled()
        a.exchange.hurry()
        assert (await waiting).missing == ("b",)
        assert torch.equal(a.theta, own)
        await b.step(1)  # a's message of step 1 had gone out
        await settled()
        assert all(p.reason is Reason.COMPLETE for p in await peers.step(2))
        assert a.asks == b.asks == []
        torch.testing.assert_close(a.theta, b.theta, atol=2e-2, rtol=0)


async def test_without_an_answer_the_step_goes_on_at_the_deadline_and_names_who_is_missing() -> None:
    async with mesh("a", "b", "c") as peers:
        await peers.join_all()
        loop = asyncio.get_running_loop()
        a, b = peers.nodes["a"], peers.nodes["b"]
        began = loop.time()
        for node in (a, b):
            node.open(0)
            node.half_step()
        before = peers.thetas()
        proceeds = await asyncio.gather(a.mix(computed=0.001), b.mix(computed=0.001))
        assert [(p.reason, p.missing) for p in proceeds] == [(Reason.DEADLINE, ("c",))] * 2
        assert round(loop.time() - began, 3) >= a.exchange.last_deadline == 0.2
        assert [(a.links[peer].due, a.links[peer].late) for peer in "bc"] == [(1, 0), (1, 1)]
        torch.testing.assert_close(a.theta, before[0] + (before[1] - before[0]) / 3)


async def test_stopping_waits_for_nobody() -> None:
    async with mesh("a", "b") as peers:
        await peers.join_all()
        a = peers.nodes["a"]
        a.open(0)
        a.half_step()
        mixing = asyncio.create_task(a.mix(computed=1000))
        await settled()
        assert a.exchange.waiting_for() == ("b",)
        a.exchange.hurry()
        assert (await mixing).missing == ("b",)
        assert a.exchange.waiting_for() == ()


async def test_whoever_is_not_linked_is_no_neighbour() -> None:
    async with mesh("a", "b") as peers:
        a = peers.nodes["a"]
        a.open(0, ["b"])
        a.half_step()
        assert (await a.mix()).reason is Reason.ALONE


async def test_a_neighbour_that_leaves_after_its_block_came_is_mixed() -> None:
    async with mesh("a", "b") as peers:
        await peers.join_all()
        a, b = peers.nodes["a"], peers.nodes["b"]
        a.open(0)
        sending = asyncio.create_task(b.step(0))
        await settled()
        average = peers.thetas().mean(dim=0)
        a.exchange.detach(a.links["b"])  # before a's own half-step is done
        a.half_step()
        proceed = await a.mix()
        assert proceed.missing == ()
        torch.testing.assert_close(a.theta, average)
        b.exchange.hurry()
        await sending


async def test_a_new_link_takes_over_and_the_end_of_the_old_one_changes_nothing() -> None:
    async with mesh("a", "b") as peers:
        await peers.join_all()
        a = peers.nodes["a"]
        older = a.links["b"]
        await peers.step(0)
        await peers.join(("a", "b"))
        a.exchange.detach(older)
        assert all(p.reason is Reason.COMPLETE for p in await peers.step(1))


async def test_moments_of_a_neighbour_that_joined_later_are_compared_bias_corrected() -> None:
    async with mesh("a", "b", moments="gossip") as peers:
        await peers.join_all()
        a, b = peers.nodes["a"], peers.nodes["b"]
        gradients = random_thetas("ab", BLOCK.numel, seed=1)
        for step in range(2):
            a.open(step, [])
            a.half_step(gradients["a"])
            await a.mix()
        for node in (a, b):
            node.open(2)
            node.half_step(gradients[node.name])
        mine, theirs = a.state.m.clone(), b.state.m.clone()
        assert (a.state.updates, b.state.updates) == (3, 1)
        await asyncio.gather(a.mix(), b.mix())
        grown = (1 - 0.9**3) / (1 - 0.9)
        torch.testing.assert_close(a.d[Section.FIRST], (grown * theirs - mine) / 2)
        torch.testing.assert_close(b.d[Section.FIRST], (mine / grown - theirs) / 2)


async def test_a_link_replaced_in_mid_phase_begins_with_a_full_message() -> None:
    async with mesh("a", "b", encoding="bf16-delta") as peers:
        await peers.join_all()
        await peers.step(0)
        await peers.join(("a", "b"))
        await settled()
        overhead = peers.nodes["a"].sent.block
        assert all(p.reason is Reason.COMPLETE for p in await peers.step(1))
        assert peers.nodes["a"].sent.block - overhead == 4 * BLOCK.numel
        assert peers.nodes["a"].asks == peers.nodes["b"].asks == []


async def test_a_given_up_step_leaves_nothing_behind() -> None:
    async with mesh("a", "b") as peers:
        await peers.join_all()
        a, b = peers.nodes["a"], peers.nodes["b"]
        a.open(0)
        sending = asyncio.create_task(b.step(0))
        await settled()
        a.exchange.abandon()
        own = a.theta.clone()
        a.open(1)
        a.half_step()
        mixing = asyncio.create_task(a.mix())
        await settled()
        b.exchange.hurry()
        await sending
        a.exchange.hurry()
        assert (await mixing).missing == ("b",)
        assert torch.equal(a.theta, own)


# -- a neighbour whose messages are written by hand ---------------------------------------------------------


class Hand:
    """``a`` with an exchange, and the other end of its link to ``b``, where the test itself sends."""

    def __init__(self, node: Node, link: Link) -> None:
        self.node, self._link = node, link
        self.values = torch.arange(BLOCK.numel, dtype=torch.float32)
        fingerprint = node.spec.fingerprint
        self.header = messages.BlockHeader(
            run=int(fingerprint[:16], 16),
            step=0,
            block=0,
            degree=1,
            sequence=0,
            full=True,
            updates=1,
            chunks=3,
            extents=((Section.BLOCK, BLOCK.numel),),
        )

    async def head(self, **changed: object) -> None:
        await self.raw(messages.header(self.header._replace(**changed)))  # type: ignore[arg-type]  # by name

    async def chunk(self, number: int, values: Tensor | None = None) -> None:
        piece = self.values[number * CHUNK : (number + 1) * CHUNK] if values is None else values
        await self.raw(messages.chunk(Section.BLOCK, number, bytes_of(piece)))

    async def whole(self, **changed: object) -> None:
        await self.head(**changed)
        for number in range(3):
            await self.chunk(number)

    async def raw(self, message: bytes) -> None:
        await self._link.blocks.send(message)
        await settled(10)

    async def drain(self) -> None:
        """Take in all that comes until the link ends, so that ``a`` is never held up in sending."""
        try:
            while True:
                await self._link.blocks.receive()
        except PeerError:
            return

    async def close(self) -> None:
        await self._link.close()


@pytest.fixture
async def hand(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hand]:
    """In step 0, with the half-step still to be done."""
    encoding = getattr(request, "param", "fp32")
    monkeypatch.setitem(CHUNK_ELEMENTS, encoding, CHUNK)
    async with mesh("a", "b", encoding=encoding) as peers:
        mine, theirs = await peers.link("a", "b")
        peers.run("a", "b", mine)
        hand = Hand(peers.nodes["a"], theirs)
        hand.node.open(0)
        draining = asyncio.create_task(hand.drain())
        yield hand
        await theirs.close()
        await draining


async def test_a_block_by_hand_is_mixed(hand: Hand) -> None:
    a, own = hand.node, hand.node.theta.clone()
    await hand.whole()
    a.half_step()
    assert (await a.mix()).reason is Reason.COMPLETE
    torch.testing.assert_close(a.theta, (own + hand.values) / 2)


async def test_a_neighbour_that_dies_in_mid_stream_leaves_whole_chunks_and_the_rest_as_it_was(
    hand: Hand,
) -> None:
    a, own = hand.node, hand.node.theta.clone()
    a.half_step()
    mixing = asyncio.create_task(a.mix())
    await hand.head()
    await hand.chunk(0)
    await hand.chunk(1)
    await hand.close()
    proceed = await mixing
    assert (proceed.reason, proceed.missing, proceed.unheard) == (Reason.LOST, ("b",), ())
    torch.testing.assert_close(a.theta[: 2 * CHUNK], (own + hand.values)[: 2 * CHUNK] / 2)
    assert torch.equal(a.theta[2 * CHUNK :], own[2 * CHUNK :])


async def test_what_a_replaced_link_still_brings_is_not_mixed(hand: Hand) -> None:
    a, own = hand.node, hand.node.theta.clone()
    a.exchange.attach("b", lambda phase: None)  # a new link to b
    a.open(1)
    await hand.whole(step=1)
    a.half_step()
    mixing = asyncio.create_task(a.mix())
    await settled()
    a.exchange.hurry()
    assert (await mixing).unheard == ("b",)
    assert torch.equal(a.theta, own)


async def refused(hand: Hand, error: type[PeerError], match: str) -> None:
    """The link ended with this error, and the step goes on with nothing mixed."""
    a, own = hand.node, hand.node.theta.clone()
    await settled()
    assert isinstance(a.errors.get("b"), error), a.errors
    assert match in str(a.errors["b"])
    a.half_step()
    assert (await a.mix()).missing == ("b",)
    assert torch.equal(a.theta, own)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"run": 1}, "another run"),
        ({"block": 1}, "sent block 1"),
        ({"chunks": 4}, "in 4 chunks"),
        ({"extents": ((Section.BLOCK, BLOCK.numel + 1),)}, "where block 0"),
        ({"extents": ((Section.BLOCK, BLOCK.numel), (Section.SECOND, 4))}, "where block 0"),
        ({"extents": ()}, "where block 0"),
    ],
)
async def test_a_header_of_something_else_ends_the_link(
    hand: Hand, changed: dict[str, object], match: str
) -> None:
    await hand.head(**changed)
    await refused(hand, ProtocolError, match)


async def test_a_chunk_without_a_header_ends_the_link(hand: Hand) -> None:
    await hand.chunk(0)
    await refused(hand, ProtocolError, "no header announced")


async def test_a_chunk_out_of_order_ends_the_link(hand: Hand) -> None:
    await hand.head()
    await hand.chunk(1)
    await refused(hand, ProtocolError, "out of order")


async def test_a_chunk_of_another_section_ends_the_link(hand: Hand) -> None:
    await hand.head()
    await hand.raw(messages.chunk(Section.FIRST, 0, bytes_of(hand.values[:CHUNK])))
    await refused(hand, ProtocolError, "out of order")


async def test_garbage_ends_the_link(hand: Hand) -> None:
    await hand.raw(b"\xff" * 20)
    await refused(hand, ProtocolError, "")


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
async def test_values_that_are_not_finite_end_the_link(hand: Hand, poison: float) -> None:
    await hand.head()
    await hand.chunk(0, torch.tensor([0.0] * 7 + [poison]))
    await refused(hand, PoisonError, "not finite")


async def test_a_chunk_of_the_wrong_size_ends_the_link(hand: Hand) -> None:
    await hand.head()
    await hand.chunk(0, torch.zeros(CHUNK - 1))
    await refused(hand, PoisonError, "bytes")


async def test_a_chunk_too_many_ends_the_link_and_the_whole_block_before_it_counts(hand: Hand) -> None:
    a, own = hand.node, hand.node.theta.clone()
    await hand.whole()
    await hand.chunk(3)
    await settled()
    assert "no header announced" in str(a.errors["b"])
    a.half_step()
    assert (await a.mix()).missing == ()
    torch.testing.assert_close(a.theta, (own + hand.values) / 2)


async def test_a_block_sent_twice_is_mixed_once(hand: Hand) -> None:
    a, own = hand.node, hand.node.theta.clone()
    await hand.head()
    await hand.chunk(0)
    await hand.whole()
    await hand.whole()
    a.half_step()
    mixing = asyncio.create_task(a.mix())
    await hand.whole()
    a.exchange.hurry()
    await mixing
    assert not a.errors
    # Of the first message, which was cut short, one chunk came.
    torch.testing.assert_close(a.theta[:CHUNK], (own + hand.values)[:CHUNK] / 2)
    assert torch.equal(a.theta[CHUNK:], own[CHUNK:])


@pytest.mark.parametrize("hand", ["bf16-delta"], indirect=True)
async def test_a_gap_is_asked_about_once_and_a_full_message_closes_it(hand: Hand) -> None:
    a, own = hand.node, hand.node.theta.clone()
    for sequence in (3, 4, 4):
        await hand.head(sequence=sequence, full=False)
        await hand.chunk(0)  # is dropped unread, whatever its size
    assert a.asks == [("b", 0)]
    await hand.whole(sequence=5, full=True)
    a.half_step()
    assert (await a.mix()).missing == ()
    torch.testing.assert_close(a.theta, (own + hand.values) / 2, atol=2e-2, rtol=0)
    await hand.head(sequence=7, full=False)
    assert a.asks == [("b", 0)] * 2


async def test_the_end_of_a_phase_in_mid_message_harms_nobody(hand: Hand) -> None:
    a = hand.node
    await hand.head()
    await hand.chunk(0)
    a.exchange.abandon()
    longer, a.block = a.block, one_block(1, CHUNK)  # one chunk long
    a.begin_phase(1, block=1)
    await hand.chunk(1)
    a.block = longer
    a.begin_phase(2, block=1)
    a.open(8)
    await hand.chunk(2)
    await hand.head(step=1)  # of a phase that has passed: not even decoded
    await hand.raw(messages.chunk(Section.FIRST, 9, bytes_of(hand.values)))
    own = a.theta.clone()
    await hand.whole(step=8, block=1)
    a.half_step()
    assert (await a.mix()).reason is Reason.COMPLETE
    torch.testing.assert_close(a.theta, (own + hand.values) / 2)


@pytest.mark.parametrize("end", ["half-step", "abandon", "phase"])
async def test_a_neighbour_that_runs_ahead_of_the_half_step_is_held_back_and_let_go(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setitem(CHUNK_ELEMENTS, "fp32", 8)
    block = one_block(WINDOW + 20, 8)
    spec = RunSpec(moments="none", inner_steps=4)
    async with Mesh(spec, random_thetas("ab", block.numel), block) as peers:
        await peers.join_all()
        a, b = peers.nodes["a"], peers.nodes["b"]
        a.open(0)
        average = peers.thetas().mean(dim=0)
        sending = asyncio.create_task(b.step(0))
        await settled(500)
        assert a.received.block == (WINDOW + 1) * 32  # one more is in hand
        if end == "half-step":
            a.half_step()
            assert (await a.mix()).reason is Reason.COMPLETE
            torch.testing.assert_close(a.theta, average)
            await sending
            return
        b.exchange.hurry()
        await sending
        if end == "abandon":
            a.exchange.abandon()
        else:
            for node in (a, b):
                node.exchange.abandon()
                node.begin_phase(1)
        following = 1 if end == "abandon" else 4
        proceeds = await peers.step(following)
        assert [p.reason for p in proceeds] == [Reason.COMPLETE] * 2
        assert a.errors == b.errors == {}
