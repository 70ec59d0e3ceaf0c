"""One neighbour's side of sending: at most one message in flight, and a newer step replaces an older one.

All neighbours get the same bytes: a `Parcel` packs each chunk once and keeps it until the last of them took it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from decad.core.coding import Encoder
from decad.core.layout import Piece
from decad.core.round import WINDOW
from decad.core.section import Section
from decad.wire import messages
from decad.wire.counters import ByteCounter
from decad.wire.transport import Channel


class Part(NamedTuple):
    """A chunk as it travels."""

    message: bytes
    payload: int
    """Bytes of it that are values."""


@dataclass
class Parcel:
    """One step's message to all neighbours, packed chunk by chunk when the first of them needs it."""

    header: messages.BlockHeader
    """As for most neighbours; `Outbox` sends a message of changes as a full one where it must."""
    encoder: Encoder
    pieces: tuple[Piece, ...]
    readers: int
    """How many neighbours it goes to."""
    _packed: dict[int, tuple[Part, int]] = field(default_factory=dict)
    """Chunk -> packed, and how many have yet to take it."""

    def part(self, number: int, full: bool) -> Part:
        """Chunk ``number``; one reader takes each once."""
        if full != self.header.full:
            return self._pack(number, full)
        if number not in self._packed:
            self._packed[number] = self._pack(number, full), self.readers
        part, readers = self._packed.pop(number)
        if readers > 1:
            self._packed[number] = (part, readers - 1)
            if len(self._packed) > WINDOW:  # a slow neighbour packs again rather than holding a whole block
                del self._packed[next(iter(self._packed))]
        return part

    def _pack(self, number: int, full: bool) -> Part:
        piece = self.pieces[number]
        payload = self.encoder.payload(piece.section, piece.chunk, full)
        return Part(messages.chunk(piece.section, piece.chunk, payload), payload.nbytes)


class Outbox:
    """What is to be sent to one neighbour on its blocks channel."""

    def __init__(self, counter: ByteCounter, on_sent: Callable[[Parcel], None]) -> None:
        self._counter = counter
        self._on_sent = on_sent
        self._parcel: Parcel | None = None
        self._wake = asyncio.Event()
        self._decodable: tuple[int, int] | None = None
        """(phase, sequence) of the last message that went out to its end: the next change builds on it."""
        self._phase = -1
        self._asked = False

    def put(self, parcel: Parcel, phase: int) -> None:
        """Send this step's message, instead of what was not yet sent of an older one."""
        self._parcel, self._phase = parcel, phase
        self._wake.set()

    def drop(self) -> None:
        """Send no more of the current message: its tensors are about to change."""
        self._parcel = None

    def forget(self) -> None:
        """The neighbour holds no public copy (it asked): the next message, or this one again, goes in full."""
        self._asked = True
        if self._parcel is not None:
            self._wake.set()

    async def run(self, channel: Channel) -> None:
        """Send until the link ends. Raises LinkClosed."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._parcel is not None:
                await self._deliver(channel, self._parcel, self._phase)

    async def _deliver(self, channel: Channel, parcel: Parcel, phase: int) -> None:
        sequence = parcel.header.sequence
        follows = self._decodable == (phase, sequence - 1)
        full = parcel.header.full or self._asked or not follows
        self._decodable, self._asked = None, False
        await self._send(channel, messages.header(parcel.header._replace(full=full)), 0, Section.BLOCK)
        for number, piece in enumerate(parcel.pieces):
            if self._parcel is not parcel:
                return
            message, payload = parcel.part(number, full)
            await self._send(channel, message, payload, piece.section)
        self._decodable = (phase, sequence)
        self._on_sent(parcel)

    async def _send(self, channel: Channel, message: bytes, payload: int, section: Section) -> None:
        await channel.send(message)
        self._counter.count(len(message), payload, section)
