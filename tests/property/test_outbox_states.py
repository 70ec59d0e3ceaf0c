"""`Outbox` against a neighbour that decodes what comes: whatever is put, dropped, held up, asked or forgotten.

The neighbour has a real decoder. It loses its copy at times, asks when it cannot decode, and its asks take as long as
they like; the channel takes as many messages as it is allowed to. The invariants are the protocol's (docs/protocol.md,
"Changes, gaps, full resend").
"""

from __future__ import annotations

import asyncio
from unittest.mock import patch

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.exchanges import settled
from torch import Tensor

from decad.core.coding import CHUNK_ELEMENTS, decoder, encoder
from decad.core.layout import cut
from decad.core.section import Section
from decad.daemon.outbox import Outbox, OutgoingMessage, PublicCopy
from decad.wire import messages
from decad.wire.counters import ByteCounter

ELEMENTS, CHUNK = 5, 2
SIZES = {Section.BLOCK: ELEMENTS}
PIECES = len(cut(SIZES, CHUNK))


class Held:
    """A channel that takes a message when it is allowed to."""

    def __init__(self) -> None:
        self.came: list[bytes] = []
        self.credit = asyncio.Semaphore(0)

    async def send(self, message: bytes) -> None:
        await self.credit.acquire()
        self.came.append(message)

    async def receive(self) -> bytes:
        raise AssertionError("an outbox receives nothing")


class OutboxMachine(RuleBasedStateMachine):
    @initialize(encoding=st.sampled_from(sorted(CHUNK_ELEMENTS)))
    def start(self, encoding: str) -> None:
        self.encoding = encoding
        self.chunks = patch.dict(CHUNK_ELEMENTS, dict.fromkeys(CHUNK_ELEMENTS, CHUNK))
        self.chunks.start()
        self.loop = asyncio.new_event_loop()
        self.channel = Held()
        self.sent: list[OutgoingMessage] = []
        self.outbox = Outbox(ByteCounter(), self.sent.append)
        self.running = self.loop.create_task(self.outbox.run(self.channel))
        self.phase, self.step = -1, -1
        self.message: OutgoingMessage | None = None
        """What the outbox has now."""
        self.public: dict[tuple[int, int], Tensor] = {}
        """(phase, sequence) -> our public copy."""
        self.read = 0
        self.header: messages.BlockHeader | None = None
        """Of the message that the neighbour is reading."""
        self.left = 0
        """Chunks of it that are to come."""
        self.decodes = False
        self.ever_lost = False
        self.asks = 0
        """On their way to the outbox."""
        self.next_phase()

    def settle(self) -> None:
        self.loop.run_until_complete(settled(20))

    # -- our side -------------------------------------------------------------------------------------------

    @rule()
    def next_phase(self) -> None:
        self.drop()
        self.phase += 1
        self.asks = 0  # an ask of another phase is not passed on
        self.encoder = encoder(self.encoding)
        self.decoder = decoder(self.encoding, SIZES)
        self.decodes = False

    @rule(values=st.lists(st.integers(-8, 8), min_size=ELEMENTS, max_size=ELEMENTS))
    def next_step(self, values: list[int]) -> None:
        self.drop()
        self.step += 1
        self.encoder.encode({Section.BLOCK: torch.tensor(values, dtype=torch.float32)})
        sequence = self.encoder.sequence
        self.public[self.phase, sequence] = self.encoder.public[Section.BLOCK].clone()
        pieces = cut(SIZES, CHUNK)
        full = self.encoder.full_only or sequence == 0
        header = messages.BlockHeader(
            1, self.step, 0, 1, sequence, full, 1, len(pieces), tuple(SIZES.items()), compute_us=self.phase
        )
        self.message = OutgoingMessage(self.phase, header, self.encoder, pieces, 1)
        self.outbox.put(self.message)
        self.settle()

    @rule()
    def drop(self) -> None:
        self.message = None
        self.outbox.drop()

    # -- the channel ----------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 2 * PIECES))
    def allow(self, count: int) -> None:
        for _ in range(count):
            self.channel.credit.release()
            self.settle()

    # -- the neighbour's side -------------------------------------------------------------------------------

    @rule()
    def take_in(self) -> None:
        """The neighbour reads what has come."""
        for raw in self.channel.came[self.read :]:
            read = messages.parse_block(raw)
            if isinstance(read, messages.BlockHeader):
                self.take_header(read)
            else:
                self.take_chunk(read)
        self.read = len(self.channel.came)

    def take_header(self, header: messages.BlockHeader) -> None:
        self.header, self.left = header, PIECES
        here = header.compute_us == self.phase
        self.decodes = here and self.decoder.begin(header.sequence, header.full)
        if here and not self.decodes:
            assert self.ever_lost, "a change came that could not be decoded, and nothing was lost"
            self.asks += 1

    def take_chunk(self, chunk: messages.BlockChunk) -> None:
        assert self.header is not None
        assert self.left > 0, "more chunks than the header announced"
        assert chunk.index == PIECES - self.left, "chunks out of order, or of two messages in one"
        self.left -= 1
        if not self.decodes:
            return
        values = self.decoder.decode(chunk.section, chunk.index, chunk.payload)
        ours = self.public[self.phase, self.header.sequence]
        assert torch.equal(values, ours[chunk.index * CHUNK : (chunk.index + 1) * CHUNK])
        if self.left == 0:
            self.decoder.end()

    @rule()
    def lose_the_copy(self) -> None:
        """The neighbour begins anew, as after an error of its own."""
        self.take_in()
        self.decoder = decoder(self.encoding, SIZES)
        self.decodes, self.ever_lost = False, True

    @precondition(lambda self: self.asks)
    @rule()
    def an_ask_arrives(self) -> None:
        self.asks -= 1
        headers = self.headers()
        self.outbox.asked()
        if self.message is not None:
            for _ in range(2 * PIECES + 2):
                self.allow(1)
            again = self.headers()[len(headers) :]
            assert again, "an ask while there is a message has it sent again"
            assert again[-1].full
        self.settle()

    def headers(self) -> list[messages.BlockHeader]:
        read = map(messages.parse_block, self.channel.came)
        return [header for header in read if isinstance(header, messages.BlockHeader)]

    # -- what holds at any time -----------------------------------------------------------------------------

    @invariant()
    def the_copy_is_known_to_be_current_only_after_a_whole_message(self) -> None:
        if self.outbox._copy is PublicCopy.CURRENT:
            assert self.sent
            assert self.outbox._last == (self.sent[-1].phase, self.sent[-1].header.sequence)

    @invariant()
    def an_outbox_goes_on_running(self) -> None:
        assert not self.running.done()

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        # With nothing in its way, the current message gets to the neighbour, and the two copies agree.
        for _ in range(3):
            self.allow(3 * (PIECES + 1))
            self.take_in()
            while self.asks:
                self.an_ask_arrives()
        if self.message is not None:
            assert self.sent
            assert self.sent[-1] is self.message
            assert self.left == 0
            assert self.header is not None
            assert self.header.step == self.step
        self.running.cancel()
        self.loop.run_until_complete(asyncio.gather(self.running, return_exceptions=True))
        self.loop.close()
        self.chunks.stop()


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
