"""One established link to a neighbour: its control channel, and the tasks of the other two."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from decad._proto import peer_pb2 as pb
from decad.daemon.exchange import Exchange
from decad.daemon.fetch import FetchPort
from decad.daemon.handshake import Handshake
from decad.daemon.neighbour import Neighbour
from decad.errors import LinkClosed, PeerError, ProtocolError
from decad.membership.suspicion import BEACON_S
from decad.membership.table import Stage
from decad.wire.counters import Traffic
from decad.wire.limits import RATES, RateMeter
from decad.wire.messages import decode_control, encode_control
from decad.wire.numbers import as_uint64
from decad.wire.reasons import printable
from decad.wire.transport import Buffer, Channel

BEACON_GAP_S = 0.05
"""Shortest time between two beacons (`BEACON_S` is the longest): steps of milliseconds need not be told one by one."""
BEACONS_REMEMBERED = 32
LAST_WORDS_S = 0.5
"""How long at most the control channel is read on after another channel of the link has ended."""
QUEUE = 64
"""Control messages waiting for a link: it is closed when a peer takes in none of so many."""


class SessionListener(Protocol):
    """Hears what comes on a session, and says what its beacons tell."""

    step: int
    stage: Stage
    end: int

    def heard_beacon(self, peer: str, beacon: pb.Beacon, round_trip_s: float | None) -> None: ...
    def heard_view(self, peer: str, view: pb.View) -> None: ...
    def heard_goodbye(self, peer: str, goodbye: pb.Goodbye) -> None: ...
    def heard_verdicts(self, peer: str, verdicts: pb.Verdicts) -> None: ...
    def heard_duplicate_identity(self, peer: str) -> None: ...
    def seen(self, peer: str) -> None: ...


class ObservedChannel:
    """A channel that tells of each message that comes."""

    def __init__(self, channel: Channel, tell: Callable[[], None]) -> None:
        self._channel, self._tell = channel, tell
        self.send = channel.send

    async def receive(self) -> Buffer:
        raw = await self._channel.receive()
        self._tell()
        return raw


class Session:
    """Runs from Welcome until the link ends."""

    def __init__(
        self,
        handshake: Handshake,
        listener: SessionListener,
        exchange: Exchange,
        fetch: FetchPort,
        traffic: Traffic,
    ) -> None:
        self.peer, self.link, self.hello = handshake.peer, handshake.link, handshake.hello
        self.fetch = fetch
        self._listener, self._exchange, self._traffic = listener, exchange, traffic
        self._outgoing: asyncio.Queue[pb.ControlMessage] = asyncio.Queue(QUEUE)
        self._sequence = 0
        self._sent_at: dict[int, float] = {}
        self._heard: tuple[int, float] | None = None
        self._beaconed = -1.0
        self._neighbour: Neighbour | None = None
        self._heard_out = asyncio.Event()
        """Set when the control channel has ended."""
        self.ended = asyncio.Event()
        """Set once nothing of this session is left at the exchange."""

    async def run(self) -> None:
        """Raises PeerError: LinkClosed in the end, or what the peer did wrong."""
        blocks = ObservedChannel(self.link.blocks, lambda: self._listener.seen(self.peer))
        neighbour = self._neighbour = self._exchange.attach(
            self.peer, lambda phase: self.tell(pb.ControlMessage(ask=pb.Ask(phase=phase)))
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read_control(neighbour))
                for work in (
                    self._write_control(),
                    neighbour.outbox.run(self.link.blocks),
                    self._exchange.receive(neighbour, blocks),
                    self.fetch.run(),
                    asyncio.shield(neighbour.fault),
                ):
                    group.create_task(self._until_last_words(work))
        except* PeerError as group_error:
            raise first_peer_error(group_error) from None
        finally:
            self._exchange.detach(neighbour)
            if not neighbour.fault.cancel():
                neighbour.fault.exception()  # else asyncio complains that nobody looked
            self.ended.set()

    def leave(self) -> None:
        """The peer is gone, whatever the link still brings: no step waits for it any more."""
        if self._neighbour is not None:
            self._exchange.detach(self._neighbour)

    def tell(self, message: pb.ControlMessage) -> None:
        """Send a control message soon. Raises ProtocolError when the peer takes none in."""
        try:
            self._outgoing.put_nowait(message)
        except asyncio.QueueFull:
            raise ProtocolError(
                f"peer {self.peer[:8]} takes in no control messages; the link is closed."
            ) from None

    def tell_beacon(self, force: bool = False) -> None:
        """The step changed, or whether this peer trains."""
        if force or asyncio.get_running_loop().time() - self._beaconed >= BEACON_GAP_S:
            self.tell(self._beacon())

    @property
    def heard(self) -> bool:
        """Whether the peer has said where it is."""
        return self._heard is not None

    async def flush(self) -> None:
        """Return when every control message told so far was taken by the transport, or never will be."""
        waits = [asyncio.ensure_future(self._outgoing.join()), asyncio.ensure_future(self.ended.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _until_last_words(self, work: Awaitable[None]) -> None:
        """Run ``work``; if it finds the link closed, hear the control channel out before saying so.

        Of three channels that end together any may be seen to end first, and the goodbye is on the control channel.
        """
        try:
            await work
        except* LinkClosed:
            self.leave()
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await self._heard_out.wait()
            raise

    async def _write_control(self) -> None:
        while True:
            try:
                async with asyncio.timeout(BEACON_S):
                    message = await self._outgoing.get()
            except TimeoutError:
                await self._put(self._beacon())
                continue
            await self._put(message)
            self._outgoing.task_done()

    async def _put(self, message: pb.ControlMessage) -> None:
        raw = encode_control(message)
        await self.link.control.send(raw)
        self._traffic.sent.count(len(raw))

    def _beacon(self) -> pb.ControlMessage:
        now = asyncio.get_running_loop().time()
        self._sequence += 1
        self._beaconed = self._sent_at[self._sequence] = now
        self._sent_at.pop(self._sequence - BEACONS_REMEMBERED, None)
        beacon = pb.Beacon(
            sequence=self._sequence,
            step=as_uint64(self._listener.step),
            stage=pb.Stage.ValueType(self._listener.stage),
            end=as_uint64(self._listener.end),
        )
        if self._heard is not None:
            beacon.echo_sequence = self._heard[0]
            beacon.echo_age_us = as_uint64(int((now - self._heard[1]) * 1e6))
        return pb.ControlMessage(beacon=beacon)

    async def _read_control(self, neighbour: Neighbour) -> None:
        loop = asyncio.get_running_loop()
        rates = {kind: RateMeter(rate, loop.time()) for kind, rate in RATES.items()}
        handlers: dict[str, Callable[[pb.ControlMessage], None]] = {
            "view": lambda m: self._listener.heard_view(self.peer, m.view),
            "ask": lambda m: self._exchange.asked(neighbour, m.ask.phase),
            "goodbye": lambda m: self._listener.heard_goodbye(self.peer, m.goodbye),
            "verdicts": lambda m: self._listener.heard_verdicts(self.peer, m.verdicts),
            "duplicate_identity": lambda m: self._listener.heard_duplicate_identity(self.peer),
        }
        while True:
            try:
                raw = await self.link.control.receive()
            except LinkClosed:
                self._heard_out.set()
                raise
            self._traffic.received.count(len(raw))
            message = decode_control(raw)
            kind = message.WhichOneof("kind") or ""
            if kind in rates and not rates[kind].take(loop.time()):
                raise ProtocolError(
                    f"peer {self.peer[:8]} sends more {kind} messages than {RATES[kind].per_s:g} a second; the link is "
                    "closed."
                )
            if kind == "beacon":
                beacon = message.beacon
                self._heard = (beacon.sequence, loop.time())
                sent_at = self._sent_at.pop(beacon.echo_sequence, None)
                trip = None if sent_at is None else max(0.0, loop.time() - sent_at - beacon.echo_age_us / 1e6)
                self._listener.heard_beacon(self.peer, beacon, trip)
            elif kind == "refusal":
                raise PeerError(f"peer {self.peer[:8]} closed the link: {printable(message.refusal.reason)}")
            elif kind in handlers:
                handlers[kind](message)
            else:
                raise ProtocolError(f"peer {self.peer[:8]} sent {kind} on an established link; it is closed.")


def first_peer_error(group: BaseExceptionGroup[PeerError]) -> PeerError:
    """The most telling error of a session's tasks: anything rather than the closed link that follows from it."""
    leaves: list[PeerError] = []
    stack: list[BaseException] = [group]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(error.exceptions)
        elif isinstance(error, PeerError):
            leaves.append(error)
    return next((e for e in leaves if not isinstance(e, LinkClosed)), leaves[0])
