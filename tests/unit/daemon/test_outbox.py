"""One neighbour's outbox: what goes out, in which form, and what a newer step replaces."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import torch
from support.exchanges import settled
from torch import Tensor

from decad.core.coding import CHUNK_ELEMENTS, Encoder, encoder
from decad.core.layout import Piece, cut
from decad.core.round import WINDOW
from decad.core.section import Section
from decad.daemon.outbox import Outbox, OutgoingMessage
from decad.wire import messages
from decad.wire.counters import ByteCounter

ELEMENTS = 20
CHUNK = 8


class Channel:
    """Takes ``credit`` messages, then holds the sender up."""

    def __init__(self, credit: int = 1 << 30) -> None:
        self.sent: list[bytes] = []
        self._credit = asyncio.Semaphore(credit)

    def allow(self, messages: int = 1 << 30) -> None:
        for _ in range(min(messages, 1000)):
            self._credit.release()

    async def send(self, message: bytes) -> None:
        await self._credit.acquire()
        self.sent.append(message)

    async def receive(self) -> bytes:
        raise AssertionError("an outbox receives nothing")

    @property
    def headers(self) -> list[tuple[int, bool]]:
        """(step, full) of every message, in order."""
        read = [messages.parse_block(m) for m in self.sent]
        return [(h.step, h.full) for h in read if isinstance(h, messages.BlockHeader)]


class CountingEncoder:
    """Counts how often each chunk is packed."""

    def __init__(self, encoding: str) -> None:
        self._encoder: Encoder = encoder(encoding, {Section.BLOCK: torch.zeros(ELEMENTS)})
        self.full_only, self.chunk_elements = self._encoder.full_only, self._encoder.chunk_elements
        self.sequence = -1
        self.packed: list[tuple[int, bool]] = []

    @property
    def public(self) -> Mapping[Section, Tensor]:
        return self._encoder.public

    def encode(self, values: Mapping[Section, Tensor]) -> None:
        self._encoder.encode(values)
        self.sequence = self._encoder.sequence

    def payload(self, section: Section, chunk: int, full: bool) -> memoryview:
        self.packed.append((chunk, full))
        return self._encoder.payload(section, chunk, full)


class Sender:
    """A peer that sends to some neighbours."""

    def __init__(self, *channels: Channel, encoding: str = "bf16-delta") -> None:
        self.channels = channels
        self.encoder = CountingEncoder(encoding)
        self.delivered: list[int] = []
        self.counters = [ByteCounter() for _ in channels]
        self.boxes = [
            Outbox(counter, lambda message: self.delivered.append(message.header.step))
            for counter in self.counters
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        runs = [
            asyncio.create_task(box.run(channel))
            for box, channel in zip(self.boxes, self.channels, strict=True)
        ]
        try:
            yield
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)

    async def begin(self) -> None:
        """The phase's first message, which goes in full to all."""
        await self.send(0)
        for channel in self.channels:
            channel.sent.clear()
        self.delivered.clear()
        self.encoder.packed.clear()

    def message(self, step: int, phase: int = 0) -> OutgoingMessage:
        self.encoder.encode({Section.BLOCK: torch.full((ELEMENTS,), float(step))})
        pieces: tuple[Piece, ...] = cut({Section.BLOCK: ELEMENTS}, self.encoder.chunk_elements)
        header = messages.BlockHeader(
            run=1,
            step=step,
            block=0,
            degree=len(self.boxes),
            sequence=self.encoder.sequence,
            full=self.encoder.full_only or self.encoder.sequence == 0,
            updates=1,
            chunks=len(pieces),
            extents=((Section.BLOCK, ELEMENTS),),
        )
        return OutgoingMessage(phase, header, self.encoder, pieces, len(self.boxes))

    def put(self, step: int, phase: int = 0) -> None:
        message = self.message(step, phase)
        for box in self.boxes:
            box.put(message)

    async def send(self, step: int, phase: int = 0) -> None:
        """A step that goes on when everything was sent."""
        self.put(step, phase)
        await settled()
        self.drop()

    def drop(self) -> None:
        for box in self.boxes:
            box.drop()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in CHUNK_ELEMENTS:
        monkeypatch.setitem(CHUNK_ELEMENTS, encoding, CHUNK)


@pytest.mark.parametrize("encoding", ["fp32", "bf16-delta"])
@pytest.mark.parametrize("first", [True, False])
async def test_a_message_is_packed_once_and_every_neighbour_gets_the_same_bytes(
    first: bool, encoding: str
) -> None:
    sender = Sender(Channel(), Channel(), Channel(), encoding=encoding)
    async with sender.running():
        if not first:
            await sender.begin()
        await sender.send(0)
    assert [chunk for chunk, _ in sender.encoder.packed] == [0, 1, 2]
    sent = sender.channels[0].sent
    assert len(sent) == 4
    assert all(channel.sent == sent for channel in sender.channels)
    assert sender.delivered == [0, 0, 0]


async def test_a_slow_neighbour_does_not_hold_a_whole_block_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CHUNK_ELEMENTS, "fp32", 1)
    monkeypatch.setattr(__name__ + ".ELEMENTS", WINDOW + 10)
    slow, fast = Channel(credit=0), Channel()
    sender = Sender(slow, fast, encoding="fp32")
    async with sender.running():
        sender.put(0)
        await settled(200)
        assert len(fast.sent) == 1 + WINDOW + 10
        slow.allow()
        await settled(200)
        assert slow.sent == fast.sent
    assert len(sender.encoder.packed) > WINDOW + 10  # the evicted ones were packed again


async def test_the_bytes_are_counted_by_section() -> None:
    channel = Channel()
    sender = Sender(channel)
    async with sender.running():
        await sender.send(0)
        await sender.send(1)
    counter = sender.counters[0]
    assert counter.block == 4 * ELEMENTS + 2 * ELEMENTS
    assert counter.total == sum(len(message) for message in channel.sent)


async def test_changes_follow_a_first_message_in_full() -> None:
    channel = Channel()
    sender = Sender(channel)
    async with sender.running():
        for step in range(3):
            await sender.send(step)
    assert channel.headers == [(0, True), (1, False), (2, False)]


async def test_fp32_is_always_full() -> None:
    channel = Channel()
    sender = Sender(channel, encoding="fp32")
    async with sender.running():
        for step in range(2):
            await sender.send(step)
    assert channel.headers == [(0, True), (1, True)]


async def test_a_newer_step_replaces_what_has_not_begun() -> None:
    channel = Channel()
    sender = Sender(channel)
    async with sender.running():
        sender.put(0)
        sender.put(1)
        await settled()
    # The neighbour does not have number 0, so number 1 goes in full.
    assert channel.headers == [(1, True)]
    assert sender.delivered == [1]


async def test_a_newer_step_cuts_short_what_has_begun() -> None:
    channel = Channel(credit=4 + 2)
    sender = Sender(channel)
    async with sender.running():
        await sender.begin()
        sender.put(1)
        await settled()
        sender.put(2)
        channel.allow()
        await settled()
        await sender.send(3)
    assert channel.headers == [(1, False), (2, True), (3, False)]
    # A header and a chunk; the second chunk was under way when the step ended.
    assert len(channel.sent) == 3 + 4 + 4
    assert sender.delivered == [2, 3]


async def test_a_dropped_message_is_not_sent_on_and_the_next_goes_in_full() -> None:
    channel = Channel(credit=4 + 2)
    sender = Sender(channel)
    async with sender.running():
        await sender.begin()
        sender.put(1)
        await settled()
        sender.drop()
        channel.allow()
        await settled()
        assert len(channel.sent) == 3
        await sender.send(2)
    assert channel.headers == [(1, False), (2, True)]


async def test_a_message_dropped_after_its_last_chunk_was_delivered() -> None:
    channel = Channel(credit=3)
    sender = Sender(channel)
    async with sender.running():
        sender.put(0)
        await settled()
        sender.drop()  # the last chunk is in the transport's hands
        channel.allow()
        await settled()
        await sender.send(1)
    assert channel.headers == [(0, True), (1, False)]
    assert sender.delivered == [0, 1]


async def test_a_new_phase_begins_in_full() -> None:
    channel = Channel()
    sender = Sender(channel)
    async with sender.running():
        await sender.send(0, phase=0)
        sender.encoder = CountingEncoder("bf16-delta")
        await sender.send(1, phase=1)
    assert channel.headers == [(0, True), (1, True)]


async def test_the_same_number_of_another_phase_does_not_follow() -> None:
    channel = Channel()
    sender = Sender(channel)
    async with sender.running():
        await sender.send(0, phase=0)
        sender.encoder = CountingEncoder("bf16-delta")
        sender.message(1, phase=1)  # number 0 of the new phase went to nobody
        await sender.send(2, phase=1)
    assert channel.headers == [(0, True), (2, True)]


async def test_after_an_ask_this_message_goes_again_in_full() -> None:
    asking, other = Channel(), Channel()
    sender = Sender(asking, other)
    async with sender.running():
        await sender.send(0)
        sender.put(1)
        await settled()
        sender.boxes[0].asked()
        await settled()
        sender.drop()
        await sender.send(2)
    assert asking.headers == [(0, True), (1, False), (1, True), (2, False)]
    assert other.headers == [(0, True), (1, False), (2, False)]


async def test_after_an_ask_between_two_steps_the_next_message_goes_in_full() -> None:
    channel = Channel()
    sender = Sender(channel)
    async with sender.running():
        await sender.send(0)
        sender.boxes[0].asked()
        await settled()
        await sender.send(1)
        await sender.send(2)
    assert channel.headers == [(0, True), (1, True), (2, False)]


async def test_an_ask_in_mid_message_is_answered_after_it() -> None:
    channel = Channel(credit=4 + 2)
    sender = Sender(channel)
    async with sender.running():
        await sender.begin()
        sender.put(1)
        await settled()
        sender.boxes[0].asked()
        channel.allow()
        await settled()
    assert channel.headers == [(1, False), (1, True)]


async def test_an_idle_outbox_holds_no_block() -> None:
    sender = Sender(Channel())
    async with sender.running():
        message = sender.message(0)
        gone = weakref.ref(message)
        sender.boxes[0].put(message)
        del message
        await settled()
        sender.drop()
        assert gone() is None
