"""One link to a neighbour: beacons, what arrives on the control channel, and how a link ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import torch
from support.exchanges import settled

from decad._proto import peer_pb2 as pb
from decad.config import RunSpec
from decad.core.blocks import BlockPlan
from decad.core.section import Section
from decad.daemon import session as session_module
from decad.daemon.exchange import Exchange
from decad.daemon.fetch import Donation, FetchPort
from decad.daemon.handshake import Handshake
from decad.daemon.session import QUEUE, Session, first_peer_error
from decad.errors import LinkClosed, PeerError, PoisonError, ProtocolError
from decad.membership.table import Stage
from decad.wire.counters import Traffic
from decad.wire.memory import MemoryLink, MemoryNetwork, MemoryTransport
from decad.wire.messages import BlockHeader, decode_control, encode_control, header
from decad.wire.transport import Link

PLAN = BlockPlan.build([("b", ["w"])], {"w": (4,)})


async def give(block: int) -> Donation:
    return Donation(torch.zeros(4), 0, False)


class Network:
    """What a session tells its network."""

    def __init__(self) -> None:
        self.step, self.stage, self.end = 3, Stage.TRAINING, 0
        self.beacons: list[tuple[str, int, float | None]] = []
        self.views: list[tuple[str, pb.View]] = []
        self.goodbyes: list[tuple[str, str]] = []
        self.duplicates: list[str] = []
        self.seen_of: list[str] = []
        self.raises: PeerError | None = None

    def seen(self, peer: str) -> None:
        self.seen_of.append(peer)

    def heard_beacon(self, peer: str, beacon: pb.Beacon, round_trip_s: float | None) -> None:
        if self.raises is not None:
            raise self.raises
        self.beacons.append((peer, beacon.step, round_trip_s))

    def heard_view(self, peer: str, view: pb.View) -> None:
        self.views.append((peer, view))

    def heard_goodbye(self, peer: str, goodbye: pb.Goodbye) -> None:
        self.goodbyes.append((peer, goodbye.reason))

    def heard_verdicts(self, peer: str, verdicts: pb.Verdicts) -> None:
        raise AssertionError("nobody sends any here")

    def heard_duplicate_identity(self, peer: str) -> None:
        self.duplicates.append(peer)


class Side:
    """One end of the link with a session on it."""

    def __init__(self, peer: str, link: Link) -> None:
        self.network = Network()
        traffic = Traffic()
        self.sent, self.received = traffic.sent, traffic.received
        self.exchange = Exchange(RunSpec(), self.sent, self.received)
        fetch = FetchPort(link.fetch, PLAN, give, traffic)
        self.session = Session(Handshake(link, peer=peer), self.network, self.exchange, fetch, traffic)


@asynccontextmanager
async def running(side: Side) -> AsyncIterator[asyncio.Task[None]]:
    run = asyncio.create_task(side.session.run())
    await settled(5)
    try:
        yield run
    finally:
        await side.session.link.close()
        await asyncio.wait({run}, timeout=5)
        run.exception()


@pytest.fixture
async def ends() -> AsyncIterator[tuple[MemoryLink, Link]]:
    network = MemoryNetwork()
    near, far = MemoryTransport(network, "near"), MemoryTransport(network, "far")
    accepted: asyncio.Queue[Link] = asyncio.Queue()
    over = asyncio.Event()

    async def on_link(link: Link) -> None:
        accepted.put_nowait(link)
        await over.wait()

    address = await far.listen("far:7700", on_link)
    yield await near.dial(address, 1), await accepted.get()
    over.set()
    await near.close()
    await far.close()


async def told(link: Link) -> pb.ControlMessage:
    async with asyncio.timeout(5):
        return decode_control(await link.control.receive())


async def say(link: Link, message: pb.ControlMessage) -> None:
    await link.control.send(encode_control(message))
    await settled(5)


async def ending(run: asyncio.Task[None]) -> PeerError:
    async with asyncio.timeout(5):
        await asyncio.wait({run})
    error = run.exception()
    assert isinstance(error, PeerError), error
    return error


async def test_a_quiet_peer_sends_beacons(ends: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "BEACON_S", 0.01)
    side = Side("b", ends[0])
    async with running(side):
        beacons = [(await told(ends[1])).beacon for _ in range(3)]
    assert [b.sequence for b in beacons] == [1, 2, 3]
    assert {(b.step, Stage(b.stage)) for b in beacons} == {(3, Stage.TRAINING)}


async def test_a_change_of_step_is_told_at_once_but_not_too_often(ends: tuple[Link, Link]) -> None:
    side = Side("b", ends[0])
    async with running(side):
        for step in range(10, 20):
            side.network.step = step
            side.session.tell_beacon()
        side.session.tell_beacon(force=True)
        assert [(await told(ends[1])).beacon.step for _ in range(2)] == [10, 19]


async def test_the_round_trip_leaves_out_how_long_the_other_end_waited(ends: tuple[Link, Link]) -> None:
    side = Side("b", ends[0])
    async with running(side):
        side.session.tell_beacon(force=True)
        sequence = (await told(ends[1])).beacon.sequence
        await asyncio.sleep(0.03)
        echo = pb.Beacon(sequence=1, step=8, echo_sequence=sequence, echo_age_us=20_000)
        await say(ends[1], pb.ControlMessage(beacon=echo))
        await say(ends[1], pb.ControlMessage(beacon=echo))  # a second echo measures nothing
        await say(ends[1], pb.ControlMessage(beacon=pb.Beacon(echo_sequence=99, echo_age_us=2**63)))
    (peer, step, trip), (_, _, again), (_, _, unknown) = side.network.beacons
    assert (peer, step, again, unknown) == ("b", 8, None, None)
    assert trip is not None
    assert 0.005 < trip < 0.5


async def test_beacons_echo_what_was_heard(ends: tuple[Link, Link]) -> None:
    side = Side("b", ends[0])
    async with running(side):
        await say(ends[1], pb.ControlMessage(beacon=pb.Beacon(sequence=41)))
        side.session.tell_beacon(force=True)
        beacon = (await told(ends[1])).beacon
    assert beacon.echo_sequence == 41
    assert beacon.echo_age_us < 1_000_000


async def test_what_comes_of_a_block_is_a_sign_of_life(ends: tuple[Link, Link]) -> None:
    side = Side("b", ends[0])
    run = int(RunSpec().fingerprint[:16], 16)
    async with running(side):
        await ends[1].blocks.send(
            header(BlockHeader(run, 0, 0, 1, 0, True, 1, 1, ((Section.BLOCK, 4),), compute_us=1))
        )
        await settled(5)
        assert side.network.seen_of == ["b"]


async def test_unanswered_beacons_are_forgotten(ends: tuple[Link, Link]) -> None:
    side = Side("b", ends[0])
    for _ in range(200):
        side.session._beacon()
    assert len(side.session._sent_at) <= session_module.BEACONS_REMEMBERED


async def test_the_network_learns_what_the_peer_says(ends: tuple[Link, Link]) -> None:
    side = Side("b", ends[0])
    view = pb.View(members=[pb.View.Member(address="x:1")])
    async with running(side):
        await say(ends[1], pb.ControlMessage(view=view))
        await say(ends[1], pb.ControlMessage(ask=pb.Ask(phase=0)))
        await say(ends[1], pb.ControlMessage(goodbye=pb.Goodbye(reason="done")))
    assert side.network.views == [("b", view)]
    assert side.network.goodbyes == [("b", "done")]
    assert side.received.overhead == side.received.total > 0


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        (b"\xff\xff", ProtocolError, ""),
        (encode_control(pb.ControlMessage(hello=pb.Hello())), ProtocolError, "sent hello"),
        (encode_control(pb.ControlMessage(welcome=pb.Welcome())), ProtocolError, "sent welcome"),
        (
            encode_control(pb.ControlMessage(refusal=pb.Refusal(reason="you sent \x1b[2Jpoison"))),
            PeerError,
            "closed the link: you sent [2Jpoison",
        ),
    ],
)
async def test_what_does_not_belong_on_a_link_ends_it(
    ends: tuple[Link, Link], message: bytes, kind: type[PeerError], text: str
) -> None:
    side = Side("b", ends[0])
    async with running(side) as run:
        await ends[1].control.send(message)
        error = await ending(run)
    assert type(error) is kind
    assert text in str(error)


@pytest.mark.parametrize("channel", ["blocks", "fetch"])
async def test_nonsense_on_another_channel_ends_the_session_and_names_it(
    ends: tuple[Link, Link], channel: str
) -> None:
    side = Side("b", ends[0])
    async with running(side) as run:
        await getattr(ends[1], channel).send(b"\xff")
        assert isinstance(await ending(run), ProtocolError)


@pytest.mark.parametrize("end", ["closed", "lost"])
async def test_the_end_of_the_link_ends_everything(ends: tuple[MemoryLink, Link], end: str) -> None:
    side = Side("b", ends[0])
    async with running(side) as run:
        assert side.exchange.neighbour("b") is not None
        assert not side.session.ended.is_set()
        if end == "closed":
            await ends[1].close()
        else:
            ends[0].lose("connection reset by peer")
        assert isinstance(await ending(run), LinkClosed)
    assert side.exchange.neighbour("b") is None
    assert side.session.ended.is_set()


class Broken:
    """A channel that is seen to end before the others do."""

    async def send(self, message: bytes) -> None:
        raise LinkClosed("reset")

    async def receive(self) -> bytes:
        raise LinkClosed("reset")


async def test_a_goodbye_is_heard_though_another_channel_ends_first(ends: tuple[MemoryLink, Link]) -> None:
    ends[0].blocks = Broken()
    side = Side("b", ends[0])
    async with running(side) as run:
        assert side.exchange.neighbour("b") is None  # but no step waits for it any more
        assert not run.done()
        await say(ends[1], pb.ControlMessage(goodbye=pb.Goodbye(reason="done")))
        await ends[1].close()
        assert isinstance(await ending(run), LinkClosed)
    assert side.network.goodbyes == [("b", "done")]


async def test_a_channel_that_ends_alone_ends_the_link_soon(
    ends: tuple[MemoryLink, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LAST_WORDS_S", 0.01)
    ends[0].blocks = Broken()
    async with running(Side("b", ends[0])) as run:
        assert str(await ending(run)) == "reset"


async def test_an_error_of_the_network_ends_the_session(ends: tuple[Link, Link]) -> None:
    side = Side("b", ends[0])
    side.network.raises = ProtocolError("too much")
    async with running(side) as run:
        await say(ends[1], pb.ControlMessage(beacon=pb.Beacon()))
        assert await ending(run) is side.network.raises


async def test_leaving_takes_the_peer_out_before_the_link_ends_and_only_this_one(
    ends: tuple[Link, Link],
) -> None:
    side = Side("b", ends[0])
    side.session.leave()  # before it runs: nothing to leave
    async with running(side) as run:
        side.session.leave()
        assert side.exchange.neighbour("b") is None
        assert not run.done()
        successor = side.exchange.attach("b", lambda phase: None)
    assert side.exchange.neighbour("b") is successor


async def test_a_peer_that_takes_nothing_in_is_hung_up_on(ends: tuple[Link, Link]) -> None:
    side = Side("b", ends[0])
    beacon = pb.ControlMessage(beacon=pb.Beacon())
    async with running(side):
        for _ in range(QUEUE):
            side.session.tell(beacon)
        with pytest.raises(ProtocolError, match="takes in no control messages"):
            side.session.tell(beacon)


async def test_flushing_waits_until_the_transport_has_everything(ends: tuple[Link, Link]) -> None:
    side = Side("b", ends[0])
    for _ in range(10):  # the link's window holds four
        side.session.tell(pb.ControlMessage(goodbye=pb.Goodbye()))
    async with running(side):
        flushing = asyncio.create_task(side.session.flush())
        await settled()
        assert not flushing.done()
        for _ in range(10):
            assert (await told(ends[1])).HasField("goodbye")
        await asyncio.wait_for(flushing, 5)


Closed, Poison = LinkClosed("closed"), PoisonError("poison")


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([Closed], Closed),
        ([Closed, Poison], Poison),
        ([Poison, Closed], Poison),
        ([Closed, ExceptionGroup("fetch", [Closed, Poison])], Poison),
    ],
)
def test_the_most_telling_error(errors: list[PeerError], expected: PeerError) -> None:
    assert first_peer_error(BaseExceptionGroup("session", errors)) is expected
