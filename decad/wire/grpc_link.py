"""A link over gRPC: three duplex streams of raw bytes on one connection, and how they end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
import grpc.aio

from decad.errors import InternalError, LinkClosed
from decad.wire.grpc_options import GRACE_S
from decad.wire.limits import MAX_MESSAGE_BYTES
from decad.wire.reasons import plain_reason
from decad.wire.tls import Proven
from decad.wire.transport import Channel

BROKEN = (grpc.aio.BaseError, grpc.RpcError, asyncio.InvalidStateError)
"""What reading or writing raises once a call or its server has ended."""

_T = TypeVar("_T")
Call: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]
Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


class _Stream(Protocol):
    """What a client's call and a server's context have in common."""

    async def read(self) -> Any: ...

    async def write(self, message: bytes, /) -> None: ...


class GrpcChannel:
    """One of the three streams of a link."""

    def __init__(self, link: GrpcLink, stream: _Stream) -> None:
        self._link = link
        self._stream = stream

    async def send(self, message: bytes) -> None:
        if len(message) > MAX_MESSAGE_BYTES:
            raise InternalError(f"a message of {len(message)} bytes exceeds {MAX_MESSAGE_BYTES}.")
        await self._link.during(self._stream.write, message)

    async def receive(self) -> bytes:
        message: bytes | object = await self._link.during(self._stream.read)
        if not isinstance(message, bytes):  # grpc.aio.EOF
            raise LinkClosed(self._link.ended or f"{self._link.address}: the other end closed the link.")
        return message


class GrpcLink(ABC):
    """Three streams and how they end; the two kinds of ends differ in that."""

    dialled: bool

    def __init__(self, streams: Mapping[str, _Stream], address: str, proven: Proven | None) -> None:
        self.address, self.proven = address, proven
        self.ended = ""
        """Why the link ended; empty while it lives."""
        self.control: Channel = GrpcChannel(self, streams["control"])
        self.blocks: Channel = GrpcChannel(self, streams["blocks"])
        self.fetch: Channel = GrpcChannel(self, streams["fetch"])
        self._busy: set[asyncio.Task[Any]] = set()
        self._interrupted: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None

    async def during(self, operation: Callable[..., Awaitable[_T]], *arguments: object) -> _T:
        """Await one read or write of a stream. Whatever ends it becomes LinkClosed."""
        task = asyncio.current_task()
        if self.ended or task is None:
            raise LinkClosed(self.ended)
        self._busy.add(task)
        try:
            return await operation(*arguments)
        except BROKEN as error:
            raise LinkClosed(self.ended or _why(self.address, error)) from None
        except asyncio.CancelledError:
            if task in self._interrupted:
                self._interrupted.discard(task)
                task.uncancel()
            # gRPC raises CancelledError also when a call, rather than the task, was cancelled.
            if task.cancelling():
                raise
            raise LinkClosed(self.ended or f"{self.address}: the link was closed.") from None
        finally:
            self._busy.discard(task)

    async def close(self) -> None:
        if self._closing is None:
            self.ended = self.ended or f"{self.address}: the link was closed here."
            self._closing = asyncio.create_task(self._close(), name=f"close link to {self.address}")
        # Whoever closes may be cancelled meanwhile; the link is closed all the same.
        await asyncio.shield(self._closing)

    def interrupt(self) -> None:
        """Make the reads and writes in progress raise LinkClosed."""
        for task in self._busy - self._interrupted:
            self._interrupted.add(task)
            task.cancel()

    @abstractmethod
    async def _close(self) -> None: ...


class DialledLink(GrpcLink):
    """The client's end: it owns the connection."""

    dialled = True

    def __init__(
        self, calls: Mapping[str, Call], address: str, proven: Proven | None, connection: grpc.aio.Channel
    ) -> None:
        super().__init__(calls, address, proven)
        self._calls = calls
        self._connection = connection

    async def _close(self) -> None:
        # Half-close, so that what was sent arrives; the other end then ends the calls.
        goodbyes = [asyncio.ensure_future(self._hang_up(call)) for call in self._calls.values()]
        await asyncio.wait(goodbyes, timeout=GRACE_S)
        self.interrupt()
        await cut(self._connection, self._calls)
        await asyncio.gather(*goodbyes, return_exceptions=True)

    @staticmethod
    async def _hang_up(call: Call) -> None:
        await call.done_writing()
        await call.code()


class AcceptedLink(GrpcLink):
    """The server's end: each stream lives until its handler returns, which sends the status last."""

    dialled = False

    def __init__(self, contexts: Mapping[str, Context], address: str, proven: Proven | None) -> None:
        super().__init__(contexts, address, proven)
        self._over = asyncio.Event()

    async def hold(self) -> None:
        """A handler's wait for the end of its link. Cancelled by gRPC when the other end is gone."""
        try:
            await self._over.wait()
        except asyncio.CancelledError:
            self.ended = self.ended or f"{self.address}: the other end is gone."
            raise
        finally:
            self._over.set()

    async def _close(self) -> None:
        self._over.set()
        self.interrupt()


async def cut(connection: grpc.aio.Channel, calls: Mapping[str, Call]) -> None:
    # Closing a connection cancels only those calls that some task is in the middle of.
    for call in calls.values():
        call.cancel()
    await connection.close(None)


def _why(address: str, error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{address}: {plain_reason(error.code().name, error.details() or '', linked=True)}."
    return f"{address}: the other end is gone."
