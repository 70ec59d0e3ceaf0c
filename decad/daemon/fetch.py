"""Blocks for joiners: one peer asks, another answers, on a channel of their own so that no step waits for it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from decad._proto import peer_pb2 as pb
from decad.core.blocks import BlockPlan
from decad.errors import DecadError, PeerError, PoisonError, ProtocolError
from decad.wire import messages
from decad.wire.counters import ByteCounter
from decad.wire.transport import Channel

CHUNK_ELEMENTS = 1 << 18
"""fp32 values of one chunk: 1 MiB."""
PATIENCE_S = 30.0
"""A donor that sends nothing for so long is given up and another is asked."""


class Donation(NamedTuple):
    """A copy of one block as fp32 host tensor [n], at the donor's ``step``."""

    values: Tensor
    step: int
    active: bool


ReadBlock = Callable[[int], Awaitable[Donation]]


class _Ask(NamedTuple):
    block: int


class _Serve(NamedTuple):
    block: int


class FetchPort:
    """The fetch channel of one link: serves the other end and asks it."""

    def __init__(
        self, channel: Channel, plan: BlockPlan, read: ReadBlock, sent: ByteCounter, received: ByteCounter
    ) -> None:
        self._channel = channel
        self._plan = plan
        self._read = read
        self._sent, self._received = sent, received
        self._outgoing: asyncio.Queue[_Ask | _Serve] = asyncio.Queue(2)
        self._answers: asyncio.Queue[messages.FetchPart] = asyncio.Queue(4)
        self._asking = asyncio.Lock()

    async def run(self) -> None:
        """Serve until the link ends."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._receive())
            group.create_task(self._send())

    async def fetch(self, block: int) -> Donation:
        """The neighbour's copy of ``block``. Raises PeerError when it cannot give it or gives it damaged."""
        async with self._asking:
            while not self._answers.empty():
                self._answers.get_nowait()
            await self._outgoing.put(_Ask(block))
            header = await self._answer()
            if isinstance(header, messages.FetchChunk) or header.WhichOneof("kind") == "request":
                raise ProtocolError("a donor answered a request with something else than a header.")
            if header.WhichOneof("kind") == "failure":
                raise PeerError(f"the neighbour cannot give block {block}: {header.failure.reason}")
            about = header.header
            values = torch.empty(self._plan[block].numel)
            if about.block != block or about.elements != values.numel():
                raise ProtocolError(f"a donor answered with block {about.block} of {about.elements} values.")
            for index, start in enumerate(range(0, values.numel(), CHUNK_ELEMENTS)):
                part = await self._answer()
                piece = values[start : start + CHUNK_ELEMENTS]
                if not isinstance(part, messages.FetchChunk) or part.index != index:
                    raise ProtocolError("a donor sent chunks out of order.")
                if part.payload.nbytes != piece.numel() * 4:
                    raise ProtocolError("a donor sent a chunk of the wrong size.")
                piece.copy_(messages.as_tensor(part.payload))
            if await asyncio.to_thread(_digest, values) != about.sha256:
                raise PoisonError(f"block {block} arrived damaged.")
            if not bool(torch.isfinite(values.sum())):
                raise PoisonError(f"block {block} holds values that are not finite.")
            return Donation(values, about.step, about.active)

    async def _answer(self) -> messages.FetchPart:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._answers.get()
        except TimeoutError:
            raise PeerError(f"the neighbour sent nothing for {PATIENCE_S:.0f} s.") from None

    async def _receive(self) -> None:
        while True:
            raw = await self._channel.receive()
            self._received.count_fetch(len(raw))
            part = messages.parse_fetch(raw)
            if isinstance(part, messages.FetchChunk) or part.WhichOneof("kind") != "request":
                if self._asking.locked():
                    await self._answers.put(part)
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
            payload = as_bytes(values[start : start + CHUNK_ELEMENTS])
            await self._put(messages.fetch_chunk(index, payload))

    async def _put(self, message: bytes) -> None:
        await self._channel.send(message)
        self._sent.count_fetch(len(message))


def as_bytes(values: Tensor) -> memoryview:
    """The memory of a contiguous host tensor."""
    return memoryview(values.view(torch.uint8).numpy()).cast("B")  # type: ignore[arg-type]  # numpy < 3.12 stubs


def _digest(values: Tensor) -> bytes:
    return hashlib.sha256(as_bytes(values)).digest()


async def fetch_blocks(
    ports: Mapping[str, FetchPort], blocks: Iterable[int], take: Callable[[int, Donation], Awaitable[None]]
) -> list[int]:
    """Fetch different blocks from different neighbours at once; ``take`` gets each. Returns those not to be had.

    A donor that fails is asked no more, and its block is asked of another.
    """
    wanted = list(blocks)

    async def ask(port: FetchPort) -> None:
        while wanted:
            block = wanted.pop()
            try:
                donation = await port.fetch(block)
            except PeerError:
                wanted.append(block)
                return
            await take(block, donation)

    async with asyncio.TaskGroup() as group:
        for port in ports.values():
            group.create_task(ask(port))
    return wanted
