"""The active block's way to the neighbours and back, step by step.

`Round` decides, `Mixer` adds, encoder and decoders code, outboxes send; this module moves the bytes between
them and keeps the one rule that matters: a chunk is mixed only into the step that it was made for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from torch import Tensor

from decad.config import RunSpec
from decad.core.coding import Decoder, Encoder
from decad.core.deadline import Pace
from decad.core.layout import Piece, cut
from decad.core.mixing import Mixer, Section
from decad.core.overlay import edge_weight
from decad.core.round import Accumulate, Action, Proceed, Reason, Round
from decad.daemon.meter import Meter
from decad.daemon.outbox import Outbox, Parcel
from decad.errors import ProtocolError
from decad.wire import messages
from decad.wire.counters import ByteCounter
from decad.wire.transport import Channel

DISTANCE_STRIDE = 16
"""The distance between our block and a neighbour's is measured on every 16th value: a status figure, not worth more."""


class Coding(NamedTuple):
    """How this run codes a block: made once a phase from the run spec by the trainer."""

    sizes: Mapping[Section, int]
    """Elements of each section of a message."""
    encoder: Encoder
    new_decoder: Callable[[], Decoder]
    scale: Callable[[Section, int, int], float]
    """Section, my updates, theirs -> factor on their values (bias correction of moments)."""


@dataclass
class _Inbound:
    """The message that a neighbour is sending now, and what is kept of it between messages."""

    decoder: Decoder | None = None
    phase: int = -1
    step: int = -1
    updates: int = 0
    next_piece: int = 0
    decoding: bool = False
    round: Round | None = None
    """The round that this message is mixed into; None: it is only decoded."""


@dataclass
class _Peer:
    outbox: Outbox
    received: ByteCounter
    sent_meter: Meter
    received_meter: Meter
    ask: Callable[[int], None]
    inbound: _Inbound = field(default_factory=_Inbound)
    late: int = 0
    weight: float = 0.0
    distance: float = -1.0
    apart: float = 0.0
    norm: float = 0.0


class Exchange:
    """All neighbours' exchange of one run. Lives on the event loop."""

    def __init__(self, spec: RunSpec, sent: ByteCounter, received: ByteCounter) -> None:
        self.pace = Pace()
        self.last_deadline = 0.0
        self.adopt(spec)
        self._sent, self._received = sent, received
        self._peers: dict[str, _Peer] = {}
        self._coding: Coding | None = None
        self._pieces: tuple[Piece, ...] = ()
        self._block = -1
        self._phase = -1
        self._step = -1
        self._opened = asyncio.Event()
        self._round: Round | None = None
        self._mixing = asyncio.Event()
        self._mixer: Mixer | None = None
        self._updates = 0
        self._held: dict[tuple[str, int], Tensor] = {}
        self._half_at: dict[int, float] = {}
        self._proceed: asyncio.Future[Proceed] | None = None

    def adopt(self, spec: RunSpec) -> None:
        """Take the run's terms; before the first step only."""
        self._run = int(spec.fingerprint[:16], 16)
        self._inner_steps = spec.inner_steps
        self._weight = partial(edge_weight, spec.overlay)

    # -- the trainer's side ---------------------------------------------------------------------------------

    def begin_phase(self, phase: int, block: int, coding: Coding) -> None:
        """A block became active: new codings at both ends."""
        self._phase, self._block, self._coding = phase, block, coding
        self._pieces = cut(coding.sizes, coding.encoder.chunk_elements)
        self._half_at.clear()

    def open(self, step: int, neighbours: Collection[str]) -> None:
        """A step begins: its messages may come in while the gradient is still being computed."""
        self._step = step
        self._round = Round([n for n in neighbours if n in self._peers], len(self._pieces), self._weight)
        self._mixing.clear()
        self._mixer = None
        self._held.clear()
        self._proceed = asyncio.get_running_loop().create_future()
        opened, self._opened = self._opened, asyncio.Event()
        opened.set()

    async def mix(
        self, updates: int, accumulators: Mapping[Section, Tensor], computed: float
    ) -> tuple[Proceed, Mixer]:
        """Send what the encoder now holds, mix what comes, and return when the step goes on.

        ``accumulators``: zeroed fp32 host tensors; ``computed``: seconds that my half-step took.
        """
        if self._round is None or self._coding is None or self._proceed is None:
            raise RuntimeError("mix() before open()")
        loop = asyncio.get_running_loop()
        round_, coding = self._round, self._coding
        self._updates = updates
        self._mixer = mixer = Mixer(accumulators, coding.encoder.chunk_elements)
        now = loop.time()
        self._half_at[self._step] = now
        for peer in self._peers.values():
            peer.apart = peer.norm = 0.0
        header = messages.BlockHeader(
            run=self._run,
            step=self._step,
            block=self._block,
            degree=round_.degree,
            sequence=coding.encoder.sequence,
            full=coding.encoder.full_only,
            updates=updates,
            chunks=len(self._pieces),
            extents=tuple(sorted(coding.sizes.items())),
        )
        parcel = Parcel(header, coding.encoder, self._pieces, round_.degree)
        for name in round_.neighbours:
            if name in self._peers:
                self._peers[name].outbox.put(parcel, self._phase)
        self.last_deadline = self.pace.deadline(self._block, computed)
        deadline = now + self.last_deadline
        self._act(round_.half_ready(deadline))
        self._mixing.set()
        timer = loop.call_at(deadline, lambda: self._act(round_.tick(deadline)))
        try:
            proceed = await self._proceed
        finally:
            timer.cancel()
            for peer in self._peers.values():
                peer.outbox.drop()
            self._round = None
            self._mixing.set()
        for name in proceed.missing:
            if name in self._peers:
                self._peers[name].late += 1
        for name, peer in self._peers.items():
            peer.weight = round_.weight(name)
            if peer.norm > 0:
                peer.distance = (peer.apart / peer.norm) ** 0.5
        return proceed, mixer

    def abandon(self) -> None:
        """The step in progress will not be finished: forget what came for it."""
        self._round = None
        self._held.clear()
        self._mixing.set()
        for peer in self._peers.values():
            peer.outbox.drop()

    def hurry(self) -> None:
        """Wait no longer: go on with what came (the daemon stops)."""
        if self._round is not None:
            self._act(self._round.tick(float("inf")))

    def waiting_for(self) -> tuple[str, ...]:
        """Neighbours whose blocks the step in progress still waits for, once my own half-step is done."""
        return self._round.waiting_for() if self._round is not None and self._mixing.is_set() else ()

    # -- one neighbour's side -------------------------------------------------------------------------------

    def attach(self, peer: str, ask: Callable[[int], None]) -> None:
        """A link to ``peer`` is ready; ``ask(phase)`` tells it on the control channel that a message is missing."""
        sent_meter, received_meter = Meter(), Meter()
        counter = self._sent.child(sent_meter.add)
        outbox = Outbox(counter, lambda parcel: self._on_sent(peer, parcel))
        self._peers[peer] = _Peer(
            outbox, self._received.child(received_meter.add), sent_meter, received_meter, ask
        )

    def detach(self, peer: str) -> None:
        """The link ended: what came whole stays mixed, nothing more is expected."""
        if self._round is not None:
            self._act(self._round.lost(peer))
        self._peers.pop(peer, None)

    def asked(self, peer: str) -> None:
        """The neighbour cannot decode our changes."""
        if peer in self._peers:
            self._peers[peer].outbox.forget()

    def peer(self, name: str) -> _Peer | None:
        """Figures of one neighbour for the status."""
        return self._peers.get(name)

    async def send(self, peer: str, channel: Channel) -> None:
        """Send to ``peer`` until the link ends."""
        await self._peers[peer].outbox.run(channel)

    async def receive(self, peer: str, channel: Channel) -> None:
        """Take in what ``peer`` sends until the link ends. Raises ProtocolError or PoisonError on nonsense."""
        me = self._peers[peer]
        while True:
            raw = await channel.receive()
            message = messages.parse_block(raw)
            if isinstance(message, messages.BlockHeader):
                me.received.count(len(raw), 0, Section.BLOCK)
                await self._header(peer, me, message)
            else:
                me.received.count(len(raw), message.payload.nbytes, message.section)
                await self._chunk(peer, me, message)

    async def _header(self, name: str, me: _Peer, header: messages.BlockHeader) -> None:
        if header.run != self._run:
            raise ProtocolError(f"peer {name[:8]} sent a block of another run; the link is closed.")
        while self._step < header.step:
            if self._round is not None:
                self._act(self._round.lost(name))
            await self._opened.wait()
        inbound = me.inbound
        inbound.step, inbound.updates, inbound.next_piece = header.step, header.updates, 0
        inbound.decoding, inbound.round = False, None
        phase = header.step // self._inner_steps
        if phase != self._phase or self._coding is None:
            return
        sizes = tuple(sorted(self._coding.sizes.items()))
        if (header.block, header.chunks, header.extents) != (self._block, len(self._pieces), sizes):
            raise ProtocolError(
                f"peer {name[:8]} sent block {header.block} in {header.chunks} chunks at step {header.step}, "
                f"where block {self._block} in {len(self._pieces)} chunks belongs; the link is closed."
            )
        if inbound.phase != phase or inbound.decoder is None:
            inbound.phase, inbound.decoder = phase, self._coding.new_decoder()
        inbound.decoding = inbound.decoder.begin(header.sequence, header.full)
        if not inbound.decoding:
            me.ask(phase)
        elif header.step == self._step and self._round is not None and self._round.wants(name):
            inbound.round = self._round
            self._round.header(name, header.degree)

    async def _chunk(self, name: str, me: _Peer, chunk: messages.BlockChunk) -> None:
        inbound = me.inbound
        number = inbound.next_piece
        inbound.next_piece += 1
        if inbound.phase != self._phase or inbound.step // self._inner_steps != self._phase:
            return
        if inbound.step < 0 or number >= len(self._pieces):
            raise ProtocolError(f"peer {name[:8]} sent a chunk that no header announced; the link is closed.")
        piece = self._pieces[number]
        if (chunk.section, chunk.index) != (piece.section, piece.chunk):
            raise ProtocolError(f"peer {name[:8]} sent chunks out of order; the link is closed.")
        if inbound.decoding and inbound.decoder is not None:
            values = inbound.decoder.decode(piece.section, piece.chunk, chunk.payload)
            round_ = inbound.round
            if round_ is not None and round_ is self._round:
                while round_.full(name) and round_ is self._round:
                    await self._mixing.wait()
                if round_ is self._round:
                    self._held[name, number] = values
                    self._act(round_.chunk(name, number))
            if number == len(self._pieces) - 1:
                inbound.decoder.end()
        if number == len(self._pieces) - 1:
            self._note_arrival(inbound.step)

    def _note_arrival(self, step: int) -> None:
        if step == self._step and step not in self._half_at:
            self.pace.arrived(0.0)
        elif step in self._half_at:
            self.pace.arrived(asyncio.get_running_loop().time() - self._half_at[step])

    def _on_sent(self, peer: str, parcel: Parcel) -> None:
        if self._round is not None and parcel.header.step == self._step:
            self._act(self._round.sent(peer))

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Accumulate):
                self._accumulate(action)
            elif self._proceed is not None and not self._proceed.done():
                self._proceed.set_result(action)

    def _accumulate(self, action: Accumulate) -> None:
        values = self._held.pop((action.neighbour, action.chunk))
        peer = self._peers.get(action.neighbour)
        if self._mixer is None or self._coding is None or peer is None:
            return
        piece = self._pieces[action.chunk]
        scale = self._coding.scale(piece.section, self._updates, peer.inbound.updates)
        self._mixer.add(action.neighbour, piece.section, piece.chunk, action.weight, values, scale)
        if piece.section is Section.BLOCK:
            ours = self._coding.encoder.public[Section.BLOCK][piece.start : piece.stop : DISTANCE_STRIDE]
            peer.apart += float((values[::DISTANCE_STRIDE] - ours).square_().sum())
            peer.norm += float(ours.square().sum())


def describe(proceed: Proceed, names: Callable[[str], str]) -> str:
    """Why a step went on without somebody, for people; empty if nobody was missing."""
    if not proceed.missing:
        return ""
    who = ", ".join(names(p) for p in proceed.missing)
    why = "did not answer before the deadline" if proceed.reason is Reason.DEADLINE else "left in mid-step"
    return f"went on without {who}: {why}"
