"""`decad.wire.transport.Transport` over gRPC: one HTTP/2 connection a link, with three duplex streams of raw bytes.

Nothing is serialised here: messages are bytes (`decad.wire.messages`). The dialling end opens the streams as calls
that carry one random nonce; the accepting end (`decad.wire.grpc_acceptor`) puts them together and answers each with
its initial metadata once all three are there. No module of wire but the five named grpc_* imports grpc.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from contextlib import suppress
from urllib.parse import quote

import grpc
import grpc.aio

from decad.config import split_address
from decad.errors import LinkClosed, NetworkError
from decad.wire.grpc_acceptor import Acceptor
from decad.wire.grpc_link import Call, DialledLink, cut
from decad.wire.grpc_options import (
    CHANNELS,
    CLIENT_OPTIONS,
    GRACE_S,
    NONCE_CHARACTERS,
    NONCE_KEY,
    SERVER_OPTIONS,
    SERVICE,
)
from decad.wire.grpc_tls import (
    as_metadata,
    channel_credentials,
    channel_options,
    read_statement,
    server_credentials,
)
from decad.wire.reasons import is_of_another_domain, plain_reason
from decad.wire.tls import Authenticator, Proven, TrustDomain
from decad.wire.transport import OnLink


class GrpcTransport:
    """`decad.wire.transport.Transport` over gRPC. One a process, on its one event loop (docs/adr/0003).

    With an authenticator every connection is mutual TLS and every link proves who is at its other end; without one
    nothing is encrypted.
    """

    def __init__(self, authenticator: Authenticator | None = None) -> None:
        self._authenticator = authenticator
        self._servers: list[tuple[grpc.aio.Server, Acceptor]] = []
        self._dialled: set[DialledLink] = set()

    async def listen(self, address: str, on_link: OnLink) -> str:
        host, port = split_address(address)
        bracketed = f"[{host}]" if ":" in host else host
        acceptor = Acceptor(on_link, self._authenticator)
        server = grpc.aio.server(handlers=(acceptor.handler(),), options=SERVER_OPTIONS)
        try:
            if self._authenticator is None:
                bound = server.add_insecure_port(f"{bracketed}:{port}")
            else:
                bound = server.add_secure_port(f"{bracketed}:{port}", server_credentials(self._authenticator))
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
        try:
            async with asyncio.timeout(patience):
                if self._authenticator is None:
                    return await self._open(
                        address, grpc.aio.insecure_channel(target, options=CLIENT_OPTIONS)
                    )
                return await self._open_as_member(address, target, self._authenticator)
        except TimeoutError:
            raise LinkClosed(f"{address}: no answer within {patience:g} s.") from None

    async def _open_as_member(self, address: str, target: str, authenticator: Authenticator) -> DialledLink:
        """While the members change their secret, the other end may not have one's first choice yet."""
        *newer, oldest = authenticator.domains()
        for domain in newer:
            with suppress(OtherDomainError):
                return await self._open(address, _secured(target, domain), authenticator, domain)
        return await self._open(address, _secured(target, oldest), authenticator, oldest)

    async def _open(
        self,
        address: str,
        connection: grpc.aio.Channel,
        authenticator: Authenticator | None = None,
        domain: TrustDomain | None = None,
    ) -> DialledLink:
        nonce = secrets.token_hex(NONCE_CHARACTERS // 2)
        metadata = grpc.aio.Metadata((NONCE_KEY, nonce))
        if authenticator is not None and domain is not None:
            for key, value in as_metadata(authenticator.state_as_client(domain, nonce)):
                metadata.add(key, value)
        calls: dict[str, Call] = {
            name: connection.stream_stream(f"/{SERVICE}/{name.capitalize()}", None, None)(
                None, metadata=metadata
            )
            for name in CHANNELS
        }
        proven: Proven | None = None
        try:
            for call in calls.values():
                answer = dict(await call.initial_metadata() or ())
                if NONCE_KEY not in answer:
                    raise _not_opened(address, (await call.code()).name, await call.details() or "")
            if authenticator is not None and domain is not None:
                try:
                    proven = authenticator.check_server(domain, read_statement(answer), nonce)
                except LinkClosed as error:
                    raise LinkClosed(f"{address}: {error}") from None
        except BaseException:
            await cut(connection, calls)
            raise
        link = DialledLink(calls, address, proven, connection)
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


class OtherDomainError(LinkClosed):
    """What answers there has no certificate of the trust domain that it was dialled with."""


def _secured(target: str, domain: TrustDomain) -> grpc.aio.Channel:
    options = [*CLIENT_OPTIONS, *channel_options(domain)]
    return grpc.aio.secure_channel(target, channel_credentials(domain), options=options)


def _not_opened(address: str, code: str, details: str) -> LinkClosed:
    kind = OtherDomainError if is_of_another_domain(details) else LinkClosed
    return kind(f"{address}: {plain_reason(code, details)}.")


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
