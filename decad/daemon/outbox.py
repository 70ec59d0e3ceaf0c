"""One neighbour's side of sending: at most one message in flight, and a newer step's replaces an older one's.

A message is what a peer sends to its neighbours in one step: a header, and the block in chunks. All neighbours get the
same bytes: an `OutgoingMessage` packs each chunk once and keeps it until the last of them took it.
"""

from __future__ import annotations

import asyncio
import enum
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


class PackedChunk(NamedTuple):
    """A chunk as it travels."""

    packed: bytes
    payload: int
    """Bytes of it that are values."""


@dataclass
class OutgoingMessage:
    """One step's message to all neighbours, packed chunk by chunk when the first of them needs it."""

    phase: int
    header: messages.BlockHeader
    """As for most neighbours; `Outbox` sends a message of changes as a full one where it must."""
    encoder: Encoder
    pieces: tuple[Piece, ...]
    readers: int
    """How many neighbours it goes to."""
    _packed: dict[int, tuple[PackedChunk, int]] = field(default_factory=dict)
    """Number of a chunk -> packed, and how many neighbours have yet to take it."""

    def chunk(self, number: int, full: bool) -> PackedChunk:
        """Chunk ``number``; each neighbour takes each once."""
        if full != self.header.full:
            return self._pack(number, full)
        if number not in self._packed:
            self._packed[number] = self._pack(number, full), self.readers
        chunk, readers = self._packed.pop(number)
        if readers > 1:
            self._packed[number] = (chunk, readers - 1)
            if len(self._packed) > WINDOW:  # a slow neighbour packs again rather than holding a whole block
                del self._packed[next(iter(self._packed))]
        return chunk

    def _pack(self, number: int, full: bool) -> PackedChunk:
        piece = self.pieces[number]
        payload = self.encoder.payload(piece.section, piece.chunk, full)
        return PackedChunk(messages.chunk(piece.section, piece.chunk, payload), payload.nbytes)


class PublicCopy(enum.Enum):
    """What the neighbour holds of our public copy, as far as we know: whether it can decode changes to it.

    | event                                     | NONE   | COMING  | ASKED | CURRENT |
    |-------------------------------------------|--------|---------|-------|---------|
    | a message begins                          | COMING |         |       | COMING  |
    | its last chunk was sent                   |        | CURRENT | NONE  |         |
    | it is given up (`put`, `drop`) before that |        | NONE    | NONE  |         |
    | the neighbour asks                        | NONE   | ASKED   | ASKED | NONE    |

    A message begins as a full one, unless this is CURRENT and the message is the next after the last.
    """

    NONE = enum.auto()
    """Nothing that changes can be added to: the phase began, a message was cut short, or it said so."""
    COMING = enum.auto()
    """A message is on its way."""
    ASKED = enum.auto()
    """A message is on its way, and since it began the neighbour asked for a full one."""
    CURRENT = enum.auto()
    """It has the last message whole."""


class Outbox:
    """What is to be sent to one neighbour on its blocks channel."""

    def __init__(self, counter: ByteCounter, on_sent: Callable[[OutgoingMessage], None]) -> None:
        self._counter = counter
        self._on_sent = on_sent
        self._message: OutgoingMessage | None = None
        """This step's, until `drop`: it may be asked for again once it was sent."""
        self._wake = asyncio.Event()
        """Set when the message is to be sent, or sent again."""
        self._copy = PublicCopy.NONE
        self._last = (-1, -1)
        """Phase and sequence number of the last message that was sent to its end."""

    def put(self, message: OutgoingMessage) -> None:
        """Send this step's message, instead of what was not yet sent of an older one."""
        self._message = message
        self._wake.set()

    def drop(self) -> None:
        """Send no more of the current message: its tensors are about to change."""
        self._message = None

    def asked(self) -> None:
        """The neighbour cannot decode changes: this message again, or the next one if there is none, goes in full."""
        on_its_way = self._copy in (PublicCopy.COMING, PublicCopy.ASKED)
        self._copy = PublicCopy.ASKED if on_its_way else PublicCopy.NONE
        if self._message is not None:
            self._wake.set()

    async def run(self, channel: Channel) -> None:
        """Send until the link ends. Raises LinkClosed."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._message is not None:
                await self._deliver(channel, self._message)

    async def _deliver(self, channel: Channel, message: OutgoingMessage) -> None:
        full = message.header.full or not self._decodes_changes_of(message)
        self._copy = PublicCopy.COMING
        await self._send(channel, messages.header(message.header._replace(full=full)), 0, Section.BLOCK)
        for number, piece in enumerate(message.pieces):
            if self._message is not message:
                self._copy = PublicCopy.NONE
                return
            packed, payload = message.chunk(number, full)
            await self._send(channel, packed, payload, piece.section)
        self._copy = PublicCopy.CURRENT if self._copy is PublicCopy.COMING else PublicCopy.NONE
        self._last = message.phase, message.header.sequence
        self._on_sent(message)

    def _decodes_changes_of(self, message: OutgoingMessage) -> bool:
        follows = (message.phase, message.header.sequence - 1) == self._last
        return follows and self._copy is PublicCopy.CURRENT

    async def _send(self, channel: Channel, packed: bytes, payload: int, section: Section) -> None:
        await channel.send(packed)
        self._counter.count(len(packed), payload, section)
