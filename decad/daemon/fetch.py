"""Blocks for joiners: one peer asks, another answers, on a channel of their own so that no step waits for it."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from decad._proto import peer_pb2 as pb
from decad.core import coding
from decad.core.blocks import BlockPlan
from decad.core.memory import bytes_of
from decad.errors import DecadError, LinkClosed, PeerError, PoisonError, ProtocolError
from decad.wire import messages
from decad.wire.counters import Traffic
from decad.wire.limits import SERVED_AT_ONCE
from decad.wire.numbers import as_uint64
from decad.wire.reasons import printable
from decad.wire.transport import Channel

CHUNK_ELEMENTS = coding.CHUNK_ELEMENTS["fp32"]
"""Values of one chunk, as in the exchange: 1 MiB."""
CHUNKS_AHEAD = 4
"""Parts of an answer that wait to be taken in: 4 MiB."""
FIRST_PATIENCE_S = 120.0
"""A donor that is mixing the block that is asked for copies it afterwards, and a slow network takes its time."""
PATIENCE_S = 30.0
"""A donor that has begun and then sends nothing for so long is given up, and so is a joiner that takes nothing in."""


class Donation(NamedTuple):
    """A copy of one block as fp32 host tensor [n], at the donor's ``step``."""

    values: Tensor
    step: int
    active: bool


class PartialBlock:
    """The chunks of a block that have come, perhaps from several donors of whom each failed: fp32 host tensor [n]."""

    def __init__(
        self, elements: int, came: Callable[[int], None] = lambda size: None, only: Collection[int] = ()
    ) -> None:
        """``came`` hears the bytes of each chunk that is taken in; ``only``: the chunks that are wanted; empty: all."""
        self._came, self.only = came, sorted(only)
        self.values = torch.empty(elements)
        self.digests = [b""] * math.ceil(elements / CHUNK_ELEMENTS)
        """SHA-256 of each chunk that is there."""

    def put(self, index: int, payload: memoryview, digest: bytes) -> None:
        """Take in a chunk. Raises ProtocolError for a wrong size, PoisonError if it is not what ``digest`` says."""
        piece = self.values[_span(index)]
        if payload.nbytes != piece.numel() * 4:
            raise ProtocolError("a donor sent a chunk of the wrong size.")
        if hashlib.sha256(payload).digest() != digest:
            raise PoisonError("a chunk of a block arrived damaged.")
        self.digests[index] = b""
        piece.copy_(messages.as_tensor(payload))
        self.digests[index] = digest
        self._came(payload.nbytes)

    @property
    def finite(self) -> bool:
        """Whether what came is numbers."""
        low, high = zip(
            *(torch.aminmax(self.chunk(i)) for i, digest in enumerate(self.digests) if digest), strict=True
        )
        return all(map(math.isfinite, (*low, *high)))  # of values that are none aminmax is none

    def chunk(self, index: int) -> Tensor:
        """The values of one chunk that is there, a view."""
        return self.values[_span(index)]


ReadBlock = Callable[[int], Awaitable[Donation]]


class _DeclinedError(PeerError):
    """The donor said that it cannot: nothing is wrong with it otherwise."""


class _Ask(NamedTuple):
    request: pb.FetchRequest


class _Serve(NamedTuple):
    request: pb.FetchRequest


class FetchPort:
    """The fetch channel of one link: serves the other end and asks it, one block at a time each way."""

    def __init__(
        self,
        channel: Channel,
        plan: BlockPlan,
        read: ReadBlock,
        traffic: Traffic,
        places: asyncio.Semaphore | None = None,
    ) -> None:
        """``places``: of `SERVED_AT_ONCE`, shared by all links."""
        self._places = places or asyncio.Semaphore(SERVED_AT_ONCE)
        self._channel = channel
        self._plan = plan
        self._read = read
        self._traffic = traffic
        self._outgoing: asyncio.Queue[_Ask | _Serve] = asyncio.Queue(2)
        self._asking = asyncio.Lock()
        self._answer: asyncio.Queue[messages.FetchPart | None] | None = None
        """Where the parts of the answer go that a fetch is waiting for; None in it: the link has ended."""
        self._fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with what the other end did wrong while it was asked."""
        self._ended = False

    async def run(self) -> None:
        """Serve until the link ends. Raises PeerError: LinkClosed, or what the other end did wrong."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._receive())
                group.create_task(self._send())
                group.create_task(self._watch())
        finally:
            self.end()

    def end(self) -> None:
        """The link has ended, whether `run` ever ran or not: who waits for a block waits no longer."""
        self._ended = True
        _drain(self._outgoing)
        if self._answer is not None:
            _drain(self._answer)
            self._answer.put_nowait(None)

    async def fetch(self, block: int, partial: PartialBlock) -> Donation:
        """The neighbour's copy of ``block``, or the chunks of it that ``partial`` wants.

        Raises PeerError when it cannot give it or gives it damaged.

        Chunks that ``partial`` has and the neighbour too are not sent; after a failure it has those that came.
        Whatever went wrong but for a donor that declines ends the link: what is still to come of the answer could
        not be told from the next one.
        """
        async with self._asking:
            if self._ended or self._fault.done():  # or about to end
                raise LinkClosed("the link to the donor has ended.")
            answer = self._answer = asyncio.Queue(CHUNKS_AHEAD)
            try:
                return await self._take_in(block, partial, answer)
            except _DeclinedError:
                raise
            except BaseException as error:
                if not self._ended:
                    fault = error if isinstance(error, PeerError) else LinkClosed("a fetch was given up.")
                    self._fault.set_exception(fault)
                raise
            finally:
                self._answer = None
                _drain(answer)  # lets go of who is putting the next part in

    async def _take_in(
        self, block: int, partial: PartialBlock, answer: asyncio.Queue[messages.FetchPart | None]
    ) -> Donation:
        async with _patience(FIRST_PATIENCE_S):
            request = pb.FetchRequest(block=block, have=partial.digests, only=partial.only)
            await self._outgoing.put(_Ask(request))
            header = await _next(answer)
        if isinstance(header, messages.FetchChunk) or header.WhichOneof("kind") == "request":
            raise ProtocolError("a donor answered a request with something else than a header.")
        if header.WhichOneof("kind") == "failure":
            raise _DeclinedError(
                f"the neighbour cannot give block {block}: {printable(header.failure.reason)}"
            )
        about = header.header
        if about.block != block or about.elements != self._plan[block].numel:
            raise ProtocolError(f"a donor answered with block {about.block} of {about.elements} values.")
        if len(about.sha256) != len(partial.digests):
            raise ProtocolError(f"a donor announced {len(about.sha256)} chunks of block {block}.")
        for index in _wanted(about.sha256, partial.digests, partial.only):
            async with _patience(PATIENCE_S):
                part = await _next(answer)
            if not isinstance(part, messages.FetchChunk) or part.index != index:
                raise ProtocolError("a donor sent chunks out of order.")
            partial.put(index, part.payload, about.sha256[index])
        if not await asyncio.to_thread(lambda: partial.finite):
            partial.digests = [b""] * len(partial.digests)
            raise PoisonError(f"block {block} holds values that are not finite.")
        return Donation(partial.values, about.step, about.active)

    async def _watch(self) -> None:
        await asyncio.shield(self._fault)

    async def _receive(self) -> None:
        while True:
            raw = await self._channel.receive()
            self._traffic.received.count_fetch(len(raw))
            part = messages.parse_fetch(raw)
            if isinstance(part, messages.FetchChunk) or part.WhichOneof("kind") != "request":
                if self._answer is not None:
                    await self._answer.put(part)
            elif part.request.block >= len(self._plan):
                raise ProtocolError(f"a peer asked for block {part.request.block} of {len(self._plan)}.")
            else:
                await self._outgoing.put(_Serve(part.request))

    async def _send(self) -> None:
        while True:
            job = await self._outgoing.get()
            if isinstance(job, _Serve):
                await self._serve(job.request)
            else:
                await self._put(pb.FetchMessage(request=job.request).SerializeToString())

    def blame(self, error: PeerError) -> None:
        """What the neighbour gave turned out to be wrong: the link ends with ``error``."""
        if not self._ended and not self._fault.done():
            self._fault.set_exception(error)

    async def _serve(self, request: pb.FetchRequest) -> None:
        async with self._places:
            await self._serve_now(request)

    async def _serve_now(self, request: pb.FetchRequest) -> None:
        try:
            given = await self._read(request.block)
        except DecadError as error:
            failure = pb.FetchFailure(block=request.block, reason=str(error))
            await self._put(pb.FetchMessage(failure=failure).SerializeToString())
            return
        digests = await asyncio.to_thread(_digests, given.values)
        header = pb.FetchHeader(
            block=request.block,
            step=as_uint64(given.step),
            active=given.active,
            elements=given.values.numel(),
            sha256=digests,
        )
        await self._put(pb.FetchMessage(header=header).SerializeToString())
        for index in _wanted(digests, request.have, request.only):
            await self._put(messages.fetch_chunk(index, bytes_of(given.values[_span(index)])))

    async def _put(self, message: bytes) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._channel.send(message)
        except TimeoutError:
            raise ProtocolError(
                f"a peer takes in nothing of the block that it asked for, for {PATIENCE_S:.0f} s; the link is closed."
            ) from None
        self._traffic.sent.count_fetch(len(message))


def _span(index: int) -> slice:
    return slice(index * CHUNK_ELEMENTS, (index + 1) * CHUNK_ELEMENTS)


def _digests(values: Tensor) -> list[bytes]:
    chunks = math.ceil(values.numel() / CHUNK_ELEMENTS)
    return [hashlib.sha256(bytes_of(values[_span(index)])).digest() for index in range(chunks)]


def _wanted(theirs: Sequence[bytes], have: Sequence[bytes], only: Collection[int]) -> list[int]:
    """Indices of the donor's chunks that the joiner wants and does not have."""
    chosen = set(only)
    return [
        i
        for i, digest in enumerate(theirs)
        if (not chosen or i in chosen) and (i >= len(have) or have[i] != digest)
    ]


async def _next(answer: asyncio.Queue[messages.FetchPart | None]) -> messages.FetchPart:
    part = await answer.get()
    if part is None:
        raise LinkClosed("the link to the donor has ended.")
    return part


@asynccontextmanager
async def _patience(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise PeerError(
            f"the neighbour was asked for a block and sent nothing for {seconds:.0f} s."
        ) from None


def _drain(queue: asyncio.Queue[Any]) -> None:
    while not queue.empty():
        queue.get_nowait()
