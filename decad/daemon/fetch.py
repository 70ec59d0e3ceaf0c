"""Blocks for joiners: one peer asks, another answers, on a channel of their own so that no step waits for it."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from decad._proto import peer_pb2 as pb
from decad.core.blocks import BlockPlan
from decad.core.memory import bytes_of
from decad.errors import DecadError, LinkClosed, PeerError, PoisonError, ProtocolError
from decad.wire import messages
from decad.wire.counters import ByteCounter
from decad.wire.reasons import printable
from decad.wire.transport import Channel

CHUNK_ELEMENTS = 1 << 18
"""fp32 values of one chunk: 1 MiB."""
CHUNKS_AHEAD = 4
"""Parts of an answer that wait to be taken in: 4 MiB."""
FIRST_PATIENCE_S = 300.0
"""A donor copies a block between two of its steps, and on a slow machine a large model's take minutes."""
PATIENCE_S = 30.0
"""A donor that has begun and then sends nothing for so long is given up."""


class Donation(NamedTuple):
    """A copy of one block as fp32 host tensor [n], at the donor's ``step``."""

    values: Tensor
    step: int
    active: bool


ReadBlock = Callable[[int], Awaitable[Donation]]


class _DeclinedError(PeerError):
    """The donor said that it cannot: nothing is wrong with it otherwise."""


class _Ask(NamedTuple):
    block: int


class _Serve(NamedTuple):
    block: int


class FetchPort:
    """The fetch channel of one link: serves the other end and asks it, one block at a time each way."""

    def __init__(
        self, channel: Channel, plan: BlockPlan, read: ReadBlock, sent: ByteCounter, received: ByteCounter
    ) -> None:
        self._channel = channel
        self._plan = plan
        self._read = read
        self._sent, self._received = sent, received
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
            self._ended = True
            _drain(self._outgoing)
            if self._answer is not None:
                _drain(self._answer)
                self._answer.put_nowait(None)

    async def fetch(self, block: int) -> Donation:
        """The neighbour's copy of ``block``. Raises PeerError when it cannot give it or gives it damaged.

        Whatever went wrong but for a donor that declines ends the link: what is still to come of the answer could
        not be told from the next one.
        """
        async with self._asking:
            if self._ended or self._fault.done():  # or about to end
                raise LinkClosed("the link to the donor has ended.")
            answer = self._answer = asyncio.Queue(CHUNKS_AHEAD)
            try:
                return await self._take_in(block, answer)
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

    async def _take_in(self, block: int, answer: asyncio.Queue[messages.FetchPart | None]) -> Donation:
        async with _patience(FIRST_PATIENCE_S):
            await self._outgoing.put(_Ask(block))
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
        values = torch.empty(about.elements)
        for index, start in enumerate(range(0, values.numel(), CHUNK_ELEMENTS)):
            async with _patience(PATIENCE_S):
                part = await _next(answer)
            piece = values[start : start + CHUNK_ELEMENTS]
            if not isinstance(part, messages.FetchChunk) or part.index != index:
                raise ProtocolError("a donor sent chunks out of order.")
            if part.payload.nbytes != piece.numel() * 4:
                raise ProtocolError("a donor sent a chunk of the wrong size.")
            piece.copy_(messages.as_tensor(part.payload))
        digest, finite = await asyncio.to_thread(_examine, values)
        if digest != about.sha256:
            raise PoisonError(f"block {block} arrived damaged.")
        if not finite:
            raise PoisonError(f"block {block} holds values that are not finite.")
        return Donation(values, about.step, about.active)

    async def _watch(self) -> None:
        await asyncio.shield(self._fault)

    async def _receive(self) -> None:
        while True:
            raw = await self._channel.receive()
            self._received.count_fetch(len(raw))
            part = messages.parse_fetch(raw)
            if isinstance(part, messages.FetchChunk) or part.WhichOneof("kind") != "request":
                if self._answer is not None:
                    await self._answer.put(part)
            elif part.request.block >= len(self._plan):
                raise ProtocolError(f"a peer asked for block {part.request.block} of {len(self._plan)}.")
            else:
                await self._outgoing.put(_Serve(part.request.block))

    async def _send(self) -> None:
        while True:
            job = await self._outgoing.get()
            if isinstance(job, _Serve):
                await self._serve(job.block)
            else:
                await self._put(pb.FetchMessage(request=pb.FetchRequest(block=job.block)).SerializeToString())

    async def _serve(self, block: int) -> None:
        try:
            given = await self._read(block)
        except DecadError as error:
            failure = pb.FetchFailure(block=block, reason=str(error))
            await self._put(pb.FetchMessage(failure=failure).SerializeToString())
            return
        values = given.values
        header = pb.FetchHeader(
            block=block,
            step=given.step,
            active=given.active,
            elements=values.numel(),
            sha256=await asyncio.to_thread(_digest, values),
        )
        await self._put(pb.FetchMessage(header=header).SerializeToString())
        for index, start in enumerate(range(0, values.numel(), CHUNK_ELEMENTS)):
            payload = bytes_of(values[start : start + CHUNK_ELEMENTS])
            await self._put(messages.fetch_chunk(index, payload))

    async def _put(self, message: bytes) -> None:
        await self._channel.send(message)
        self._sent.count_fetch(len(message))


def _digest(values: Tensor) -> bytes:
    return hashlib.sha256(bytes_of(values)).digest()


def _examine(values: Tensor) -> tuple[bytes, bool]:
    """The hash, and whether every value is finite."""
    low, high = torch.aminmax(values)  # no number if any is none
    return _digest(values), math.isfinite(low) and math.isfinite(high)


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


async def fetch_blocks(
    ports: Mapping[str, FetchPort], blocks: Iterable[int], take: Callable[[int, Donation], Awaitable[None]]
) -> list[int]:
    """Fetch different blocks from different neighbours at once; ``take`` gets each. Returns those not to be had.

    A donor that fails is asked no more, and its block is asked of another.
    """
    wanted, idle = list(blocks), list(ports.values())
    under_way: dict[asyncio.Task[Donation], tuple[FetchPort, int]] = {}
    try:
        while under_way or (wanted and idle):
            while wanted and idle:
                port, block = idle.pop(), wanted.pop()
                under_way[asyncio.create_task(port.fetch(block))] = port, block
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for fetched in done:
                port, block = under_way.pop(fetched)
                try:
                    donation = fetched.result()
                except PeerError:
                    wanted.append(block)
                    continue
                idle.append(port)
                await take(block, donation)
    finally:
        for fetching in under_way:
            fetching.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    return wanted
