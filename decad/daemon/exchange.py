"""The active block's way to the neighbours and back, step by step.

`Round` decides, `Mixer` adds, encoder and decoders code, outboxes send; this module moves the bytes between
them and keeps the one rule that matters: a chunk is mixed only into the step that it was made for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import NamedTuple

from torch import Tensor

from decad.config import RunSpec
from decad.core.absence import Absence
from decad.core.deadline import Pace
from decad.core.layout import Piece, cut
from decad.core.mixing import Mixer
from decad.core.overlay import edge_weight
from decad.core.round import Proceed, Reason
from decad.core.section import Section
from decad.core.spoiling import Acquaintance
from decad.daemon.meter import Meter
from decad.daemon.neighbour import IncomingMessage, Neighbour
from decad.daemon.outbox import Outbox, OutgoingMessage
from decad.daemon.step import Coding, StepExchange
from decad.errors import InternalError, PoisonError, ProtocolError
from decad.membership.identity import short_id
from decad.wire import messages
from decad.wire.counters import ByteCounter
from decad.wire.numbers import as_uint32, as_uint64
from decad.wire.transport import Channel


class _HalfStep(NamedTuple):
    """When my half-step of a step was done, on the loop's clock, and how long it took."""

    at: float
    computed: float


class Exchange:
    """All neighbours' exchange of one run. Lives on the event loop."""

    def __init__(self, spec: RunSpec, sent: ByteCounter, received: ByteCounter) -> None:
        self.pace = Pace()
        self._absence = Absence()
        self.last_deadline = 0.0
        self.furthest = -1.0
        """How far from mine, relative to it, the furthest neighbour's block was in the last step; -1: nobody's came."""
        self.adopt(spec)
        self._sent, self._received = sent, received
        self._neighbours: dict[str, Neighbour] = {}
        self._coding: Coding | None = None
        self._pieces: tuple[Piece, ...] = ()
        self._block = -1
        self._phase, self._steps = -1, range(0)
        self._opened = -1
        """The last step that was opened."""
        self._opening = asyncio.Event()
        """Set, and replaced, when the next step is opened."""
        self._step: StepExchange | None = None
        self._patient = False
        self._half_steps: dict[int, _HalfStep] = {}
        """Mine of this phase, by step."""

    def adopt(self, spec: RunSpec) -> None:
        """Take the run's terms; before the first step only."""
        self._run = int(spec.fingerprint[:16], 16)
        self._met = Acquaintance(spec.inner_steps)
        self._weight = partial(edge_weight, spec.overlay)

    # -- the trainer's side ---------------------------------------------------------------------------------

    def begin_phase(self, phase: int, steps: range, block: int, coding: Coding) -> None:
        """A block became active, for ``steps``: new codings at both ends."""
        self._phase, self._steps, self._block, self._coding = phase, steps, block, coding
        self._pieces = cut(coding.sizes, coding.encoder.chunk_elements)
        self._half_steps.clear()
        for peer in self._neighbours.values():
            peer.decoder, peer.asked = None, False
            if peer.message is not None:
                peer.message.decoder = None

    def open(self, step: int, neighbours: Collection[str], patient: bool = False) -> frozenset[str]:
        """A step begins: its messages may come in while the gradient is still being computed.

        ``patient``: wait for those who compute slowly, too, since nothing is computed. Returns those of ``neighbours``
        that it counts on: linked, and not absent (`Absence`).
        """
        if self._coding is None:
            raise InternalError("open() before begin_phase()")
        self.abandon()
        now = asyncio.get_running_loop().time()
        linked = [name for name in neighbours if name in self._neighbours]
        for name in linked:
            self._neighbours[name].absent = self._absence.absent(name, now)
        here = [name for name in linked if self._absence.counts(name, step, now)]
        slow = {name for name in here if self.pace.slow(name) and not patient}
        tardy = {name for name in here if self.pace.tardy(name) and not patient}
        self._patient = patient
        self._step = StepExchange(step, here, slow, self._pieces, self._coding, self._weight, tardy)
        self._opened = step
        opening, self._opening = self._opening, asyncio.Event()
        opening.set()
        return frozenset(here)

    async def mix(
        self, updates: int, accumulators: Mapping[Section, Tensor], computed: float
    ) -> tuple[Proceed, Mixer]:
        """Send what the encoder now holds, mix what comes, and return when the step goes on.

        ``accumulators``: zeroed fp32 host tensors; ``computed``: seconds that my half-step took.
        """
        if self._step is None or self._coding is None:
            raise InternalError("mix() before open()")
        loop = asyncio.get_running_loop()
        step, coding = self._step, self._coding
        mixer = coding.mixer(accumulators, step.number, step.round.degree)
        now = loop.time()
        mine = self._half_steps[step.number] = _HalfStep(now, computed)
        for peer in self._neighbours.values():
            if peer.message is not None and peer.message.step == step.number and peer.message.whole:
                self._note_arrival(peer, peer.message, mine)
        header = messages.BlockHeader(
            run=self._run,
            step=as_uint64(step.number),
            block=self._block,
            degree=step.round.degree,
            sequence=coding.encoder.sequence,
            full=coding.encoder.full_only or coding.encoder.sequence == 0,
            updates=updates,
            chunks=len(self._pieces),
            extents=tuple(sorted(coding.sizes.items())),
            compute_us=as_uint32(1 + int(computed * 1e6)),
        )
        message = OutgoingMessage(self._phase, header, coding.encoder, self._pieces, step.round.degree)
        for name in step.round.neighbours:
            if name in self._neighbours:
                self._neighbours[name].outbox.put(message)
        wait = self.pace.patience if self._patient else self.pace.deadline
        self.last_deadline = wait(self._block, computed)
        deadline = now + self.last_deadline
        step.half_ready(mixer, updates, deadline)
        timer = loop.call_at(deadline, step.tick, deadline)
        try:
            proceed = await step.proceed
        finally:
            timer.cancel()
            self.abandon()
        if not proceed.unheard:
            # Waiting for a message to begin is somebody else's computation; from then on it is the network.
            self.pace.stepped(self._block, computed + step.network_part(now, loop.time()))
        self.pace.counted(step.round.neighbours, proceed.missing, proceed.late)
        self._absence.counted(proceed.missing, loop.time())
        for name, peer in self._neighbours.items():
            peer.due += name in step.round.neighbours
            peer.late += name in proceed.missing
            peer.weight = step.round.weight(name)
            peer.clipped = step.clipped(name)
            if (distance := step.distance(name)) >= 0:
                peer.distance = distance
        self.furthest = step.distances.furthest
        if spoilers := self._met.spoilers(step.number, step.distances):
            mixer.take_back()
            for name in spoilers:
                self._spoilt(name, step.number)
        return proceed, mixer

    def abandon(self) -> None:
        """The step in progress, if any, is over for the exchange: mix and send nothing more of it."""
        if self._step is not None:
            self._step.close()
            self._step = None
        for peer in self._neighbours.values():
            peer.outbox.drop()

    def hurry(self) -> None:
        """Wait no longer: go on with what came (the daemon stops)."""
        if self._step is not None:
            self._step.tick(math.inf)

    def waiting_for(self) -> tuple[str, ...]:
        """Neighbours whose blocks the step in progress still waits for, once my own half-step is done."""
        return self._step.round.waiting_for() if self._step is not None and self._step.mixing.is_set() else ()

    # -- one neighbour's side -------------------------------------------------------------------------------

    def attach(self, name: str, ask: Callable[[int], None]) -> Neighbour:
        """A link to ``name`` is ready, and takes the place of an earlier one.

        ``ask(phase)`` tells it on the control channel that a message is missing.
        """
        if older := self._neighbours.get(name):
            self.detach(older)
        sent_meter, received_meter = Meter(), Meter()
        outbox = Outbox(self._sent.child(sent_meter.add), lambda message: self._on_sent(name, message))
        peer = Neighbour(
            name, outbox, self._received.child(received_meter.add), sent_meter, received_meter, ask
        )
        self._neighbours[name] = peer
        return peer

    def detach(self, peer: Neighbour) -> None:
        """The link ended: what came stays mixed, nothing more is expected. Once is enough."""
        if self._attached(peer):
            self._lose(peer)
            self.pace.forget(peer.name)
            del self._neighbours[peer.name]

    def asked(self, peer: Neighbour, phase: int) -> None:
        """The neighbour cannot decode our changes."""
        if phase == self._phase:
            peer.outbox.asked()

    def neighbour(self, name: str) -> Neighbour | None:
        """Figures of one neighbour for the status."""
        return self._neighbours.get(name)

    async def receive(self, peer: Neighbour, channel: Channel) -> None:
        """Take in what ``peer`` sends until the link ends. Raises ProtocolError or PoisonError on nonsense."""
        while True:
            raw = await channel.receive()
            read = messages.parse_block(raw)
            if isinstance(read, messages.BlockHeader):
                peer.received.count(len(raw))
                await self._header(peer, read)
            else:
                peer.received.count(len(raw), read.payload.nbytes, read.section)
                await self._chunk(peer, read)

    async def _header(self, peer: Neighbour, header: messages.BlockHeader) -> None:
        if header.run != self._run:
            raise ProtocolError(
                f"peer {short_id(peer.name)} sent a block of another run; the link is closed."
            )
        while self._opened < header.step:
            self._lose(peer)
            await self._opening.wait()
        compute_s = header.compute_us / 1e6
        message = peer.message = IncomingMessage(compute_s, header.step, header.updates, header.chunks)
        if self._coding is None or header.step not in self._steps:
            return
        if header.updates > len(self._steps):
            raise ProtocolError(
                f"peer {short_id(peer.name)} tells {header.updates} updates of a block in a phase of "
                f"{len(self._steps)} steps; the link is closed."
            )
        sizes = tuple(sorted(self._coding.sizes.items()))
        if (header.block, header.chunks, header.extents) != (self._block, len(self._pieces), sizes):
            raise ProtocolError(
                f"peer {short_id(peer.name)} sent block {header.block} in {header.chunks} chunks at step "
                f"{header.step}, where block {self._block} in {len(self._pieces)} chunks belongs; the link is "
                "closed."
            )
        if peer.decoder is None:
            peer.decoder = self._coding.new_decoder()
        if not peer.decoder.begin(header.sequence, header.full):
            if not peer.asked:
                peer.asked = True
                peer.ask(self._phase)
            return
        peer.asked = False
        message.decoder = peer.decoder
        step = self._step
        if step is not None and step.number == header.step and self._attached(peer):
            message.into = step if step.begins(peer.name, header.degree) else None

    async def _chunk(self, peer: Neighbour, chunk: messages.BlockChunk) -> None:
        message = peer.message
        if message is None or message.whole:
            raise ProtocolError(
                f"peer {short_id(peer.name)} sent a chunk that no header announced; the link is closed."
            )
        number, decoder = message.came, message.decoder
        message.came += 1
        if decoder is not None:
            piece = self._pieces[number]
            if (chunk.section, chunk.index) != (piece.section, piece.chunk):
                raise ProtocolError(
                    f"peer {short_id(peer.name)} sent chunks out of order; the link is closed."
                )
            values = decoder.decode(piece.section, piece.chunk, chunk.payload)
            if message.into is not None:
                await message.into.take(peer.name, number, values, message.updates)
            if message.whole:
                decoder.end()
        if message.whole:
            self._absence.brought(peer.name)
            if (mine := self._half_steps.get(message.step)) is not None:
                self._note_arrival(peer, message, mine)

    def _attached(self, peer: Neighbour) -> bool:
        return self._neighbours.get(peer.name) is peer

    def _lose(self, peer: Neighbour) -> None:
        if self._step is not None and self._attached(peer):
            self._step.lost(peer.name)

    def _note_arrival(self, peer: Neighbour, message: IncomingMessage, mine: _HalfStep) -> None:
        seconds = asyncio.get_running_loop().time() - mine.at
        self.pace.arrived(peer.name, seconds, message.compute_s / max(mine.computed, 1e-6))

    def _spoilt(self, name: str, step: int) -> None:
        peer = self._neighbours.get(name)
        if peer is not None and not peer.fault.done():
            peer.fault.set_exception(
                PoisonError(
                    f"peer {short_id(name)}'s block at step {step} is further from this peer's than this peer's is "
                    "from zero. What the neighbours sent for that step is not mixed, and the link is closed."
                )
            )

    def _on_sent(self, name: str, message: OutgoingMessage) -> None:
        if self._step is not None and self._step.number == message.header.step:
            self._step.sent(name)


def describe(proceed: Proceed, names: Callable[[Collection[str]], str]) -> str:
    """Why a step went on without somebody, for people; empty if nobody was missing."""
    if not proceed.missing:
        return ""
    return f"went on without {names(proceed.missing)}: {_WHY.get(proceed.reason, 'left, or had gone on already')}"


_WHY = {
    Reason.DEADLINE: "did not answer before the deadline",
    Reason.SLOW: "too slow or late too often, and not waited for",
}
