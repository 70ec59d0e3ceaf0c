"""Links over gRPC: one HTTP/2 connection with three duplex streams of raw bytes.

The streams of a link are separate calls that carry the same random nonce; the accepting end puts them together
and answers each with its initial metadata once all three are there. Nothing is serialised here: messages are
bytes (`decad.wire.messages`). The only module of wire that imports grpc.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar
from urllib.parse import quote, unquote

import grpc
import grpc.aio

from decad.config import split_address
from decad.errors import InternalError, LinkClosed, NetworkError
from decad.wire.accepted import AcceptedLinks
from decad.wire.reasons import plain_reason
from decad.wire.transport import MAX_MESSAGE_BYTES, Channel, OnLink

SERVICE = "decad.v1.Peer"
CHANNELS = ("control", "blocks", "fetch")
NONCE_KEY = "decad-link"
NONCE_CHARACTERS = 32
"""128 random bits in hex: no two links of one connection's address ever meet."""

MAX_ACCEPTED_LINKS = 128
"""Twice (both ends may dial at once) the 64 neighbours beyond which `full` is no longer a sensible overlay; a
hostile LAN can make us hold this many times two messages of MAX_MESSAGE_BYTES, 1 GiB, and 128 descriptors."""
ASSEMBLY_S = 10.0
"""How long the three streams of a link may take to arrive: long for a slow network, short for a scanner."""
GRACE_S = 0.5
"""How long a closed link may take to deliver what was sent before; then it is cut."""
KEEPALIVE_MS = 15_000
"""A connection without traffic is pinged this often and given up when no answer comes for as long: the backstop
for hosts that vanish without a word. Beacons notice sooner; this frees what waits in the transport."""

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 8192),
    ("grpc.http2.bdp_probe", 1),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.http2.max_pings_without_data", 0),
]
_SERVER_OPTIONS = [
    *_OPTIONS,
    ("grpc.so_reuseport", 0),  # else a second daemon would silently share the port
    ("grpc.max_concurrent_streams", len(CHANNELS)),  # a link has its own connection
    ("grpc.max_connection_idle_ms", int(1000 * ASSEMBLY_S)),
    ("grpc.server_handshake_timeout_ms", int(1000 * ASSEMBLY_S)),
    # The default closes connections that ping more than once in five minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 3),
    ("grpc.http2.max_ping_strikes", 0),
]
_CLIENT_OPTIONS = [
    *_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),  # else two links to one address would share a connection
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
]

_BROKEN = (grpc.aio.BaseError, grpc.RpcError, asyncio.InvalidStateError)
"""What reading or writing raises once a call or its server has ended."""


_T = TypeVar("_T")
_Call: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]
_Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


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

    def __init__(self, streams: Mapping[str, _Stream], address: str) -> None:
        self.address = address
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
        except _BROKEN as error:
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

    def __init__(self, calls: Mapping[str, _Call], address: str, connection: grpc.aio.Channel) -> None:
        super().__init__(calls, address)
        self._calls = calls
        self._connection = connection

    async def _close(self) -> None:
        # Half-close, so that what was sent arrives; the other end then ends the calls.
        goodbyes = [asyncio.ensure_future(self._hang_up(call)) for call in self._calls.values()]
        await asyncio.wait(goodbyes, timeout=GRACE_S)
        self.interrupt()
        await _cut(self._connection, self._calls)
        await asyncio.gather(*goodbyes, return_exceptions=True)

    @staticmethod
    async def _hang_up(call: _Call) -> None:
        await call.done_writing()
        await call.code()


class AcceptedLink(GrpcLink):
    """The server's end: each stream lives until its handler returns, which sends the status last."""

    dialled = False

    def __init__(self, contexts: Mapping[str, _Context], address: str) -> None:
        super().__init__(contexts, address)
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


class _Assembly:
    """The streams of one link that have arrived so far."""

    def __init__(self) -> None:
        self.contexts: dict[str, _Context] = {}
        self.link: asyncio.Future[AcceptedLink | None] = asyncio.get_running_loop().create_future()
        """None: dropped."""

    def settle(self, link: AcceptedLink | None) -> None:
        if not self.link.done():
            self.link.set_result(link)


class _Acceptor:
    """Puts arriving streams together to links and has them served."""

    def __init__(self, on_link: OnLink) -> None:
        self.links: set[AcceptedLink] = set()
        self.serving = AcceptedLinks(on_link)
        self._assemblies: dict[tuple[str, str], _Assembly] = {}
        self._streams = 0

    def handler(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """The service with its three methods, bytes in and bytes out."""
        methods = {
            name.capitalize(): grpc.stream_stream_rpc_method_handler(partial(self._arrived, name))
            for name in CHANNELS
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _arrived(self, name: str, _requests: object, context: _Context) -> None:
        """One stream, from its arrival to its end."""
        nonce = str(dict(context.invocation_metadata() or ()).get(NONCE_KEY, ""))
        key = context.peer(), nonce
        assembly = self._assemblies.get(key)
        if assembly is None and self._streams >= MAX_ACCEPTED_LINKS * len(CHANNELS):
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            return
        self._streams += 1
        # grpc-stubs asks for a class that grpc does not have; any callable does.
        context.add_done_callback(self._stream_ended)  # type: ignore[arg-type]
        if assembly is None:
            assembly = self._assemblies[key] = _Assembly()
        if len(nonce) != NONCE_CHARACTERS or name in assembly.contexts:
            context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
            self._drop(key, assembly)
            return
        assembly.contexts[name] = context
        try:
            if len(assembly.contexts) == len(CHANNELS):
                await self._complete(key, assembly)
            async with asyncio.timeout(ASSEMBLY_S):
                link = await asyncio.shield(assembly.link)
        except TimeoutError:
            link = None
        finally:
            self._drop(key, assembly)
        if link is None:
            context.set_code(grpc.StatusCode.DEADLINE_EXCEEDED)
            return
        try:
            await link.hold()
        finally:
            self.links.discard(link)

    async def _complete(self, key: tuple[str, str], assembly: _Assembly) -> None:
        del self._assemblies[key]
        try:
            for context in assembly.contexts.values():
                await context.send_initial_metadata(((NONCE_KEY, key[1]),))
        except _BROKEN:
            return
        link = AcceptedLink(assembly.contexts, _address(key[0]))
        self.links.add(link)
        assembly.settle(link)
        self.serving.start(link)

    def _drop(self, key: tuple[str, str], assembly: _Assembly) -> None:
        if self._assemblies.get(key) is assembly:
            del self._assemblies[key]
        assembly.settle(None)

    def _stream_ended(self, _context: object) -> None:
        self._streams -= 1


class GrpcTransport:
    """`decad.wire.transport.Transport` over gRPC. One a process, on its one event loop (docs/adr/0003)."""

    def __init__(self) -> None:
        self._servers: list[tuple[grpc.aio.Server, _Acceptor]] = []
        self._dialled: set[DialledLink] = set()

    async def listen(self, address: str, on_link: OnLink) -> str:
        host, port = split_address(address)
        bracketed = f"[{host}]" if ":" in host else host
        acceptor = _Acceptor(on_link)
        server = grpc.aio.server(handlers=(acceptor.handler(),), options=_SERVER_OPTIONS)
        try:
            bound = server.add_insecure_port(f"{bracketed}:{port}")
        except RuntimeError:
            raise NetworkError(
                f"cannot listen on {address}: {_why_not_bound(host, port)}. "
                "Choose another address with --listen HOST:PORT; port 0 picks a free one."
            ) from None
        await server.start()
        self._servers.append((server, acceptor))
        return f"{bracketed}:{bound}"

    async def dial(self, address: str, patience: float) -> DialledLink:
        try:
            host, port = split_address(address)
        except ValueError as error:
            raise LinkClosed(f"{error}.") from None
        # dns:/// with an escaped host: no name can be taken for another of gRPC's schemes.
        target = f"dns:///{quote(f'[{host}]' if ':' in host else host, safe='[]:')}:{port}"
        connection = grpc.aio.insecure_channel(target, options=_CLIENT_OPTIONS)
        metadata = grpc.aio.Metadata((NONCE_KEY, secrets.token_hex(NONCE_CHARACTERS // 2)))
        calls: dict[str, _Call] = {
            name: connection.stream_stream(f"/{SERVICE}/{name.capitalize()}", None, None)(
                None, metadata=metadata
            )
            for name in CHANNELS
        }
        try:
            async with asyncio.timeout(patience):
                for call in calls.values():
                    if NONCE_KEY not in (await call.initial_metadata() or ()):
                        reason = plain_reason((await call.code()).name, await call.details() or "")
                        raise LinkClosed(f"{address}: {reason}.")
        except TimeoutError:
            await _cut(connection, calls)
            raise LinkClosed(f"{address}: no answer within {patience:g} s.") from None
        except BaseException:
            await _cut(connection, calls)
            raise
        link = DialledLink(calls, address, connection)
        self._dialled = {link for link in self._dialled if not link.ended} | {link}
        return link

    async def close(self) -> None:
        # All at once: each waits GRACE_S at most for the other ends.
        async with asyncio.TaskGroup() as group:
            for server, acceptor in self._servers:
                for accepted in acceptor.links:
                    group.create_task(accepted.close())
                group.create_task(acceptor.serving.close(GRACE_S))
                group.create_task(server.stop(GRACE_S))
            for dialled in self._dialled:
                group.create_task(dialled.close())
        self._servers.clear()
        self._dialled.clear()


async def _cut(connection: grpc.aio.Channel, calls: Mapping[str, _Call]) -> None:
    # Closing a connection cancels only those calls that some task is in the middle of.
    for call in calls.values():
        call.cancel()
    await connection.close(None)


def _why(address: str, error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{address}: {plain_reason(error.code().name, error.details() or '', linked=True)}."
    return f"{address}: the other end is gone."


def _address(peer: str) -> str:
    """ipv4:127.0.0.1:80 or ipv6:%5B::1%5D:80, as gRPC names it -> host:port."""
    return unquote(peer).partition(":")[2]


def _why_not_bound(host: str, port: int) -> str:
    """gRPC keeps the reason for itself, so ask the system again."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, where in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
                probe.listen()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "the system refused"
