"""How the accepting end makes links: the three streams of one arrive as separate calls with the same random nonce."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from decad.errors import LinkClosed
from decad.wire.accepted import AcceptedLinks
from decad.wire.grpc_link import BROKEN, AcceptedLink, Context
from decad.wire.grpc_options import (
    ASSEMBLY_S,
    CHANNELS,
    MAX_ACCEPTED_LINKS,
    NONCE_CHARACTERS,
    NONCE_KEY,
    SERVICE,
)
from decad.wire.grpc_tls import Metadata, check_arrival
from decad.wire.reasons import printable
from decad.wire.tls import Authenticator, Proven
from decad.wire.transport import OnLink

log = logging.getLogger("decad")


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether gRPC logs something else than that the last status of a call finds the connection broken."""
    return record.exc_info is None or getattr(record.exc_info[0], "__name__", "") != "ExecuteBatchError"


logging.getLogger("grpc._cython.cygrpc").addFilter(_is_worth_a_line)


class _Assembly:
    """The streams of one link that have arrived so far."""

    def __init__(self, proven: Proven | None, answer: Metadata) -> None:
        self.proven, self.answer = proven, answer
        self.contexts: dict[str, Context] = {}
        self.link: asyncio.Future[AcceptedLink | None] = asyncio.get_running_loop().create_future()
        """None: dropped."""

    def settle(self, link: AcceptedLink | None) -> None:
        if not self.link.done():
            self.link.set_result(link)


class Acceptor:
    """Puts arriving streams together to links and has them served; of members only, where there is an authenticator."""

    def __init__(self, on_link: OnLink, authenticator: Authenticator | None) -> None:
        self._authenticator = authenticator
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

    async def _arrived(self, name: str, _requests: object, context: Context) -> None:
        """One stream, from its arrival to its end."""
        metadata = dict(context.invocation_metadata() or ())
        nonce = str(metadata.get(NONCE_KEY, ""))
        key = context.peer(), nonce
        assembly = self._assemblies.get(key)
        if assembly is None and self._streams >= MAX_ACCEPTED_LINKS * len(CHANNELS):
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            return
        self._streams += 1
        # grpc-stubs asks for a class that grpc does not have; any callable does.
        context.add_done_callback(self._stream_ended)  # type: ignore[arg-type]
        if assembly is None:
            try:
                proven, answer = self._authenticate(context, metadata, nonce)
            except LinkClosed as error:
                log.info("%s: %s", _address(key[0]), printable(str(error)))
                context.set_code(grpc.StatusCode.UNAUTHENTICATED)
                context.set_details(printable(str(error)))
                return
            assembly = self._assemblies[key] = _Assembly(proven, answer)
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
                await context.send_initial_metadata(((NONCE_KEY, key[1]), *assembly.answer))
        except BROKEN:
            return
        link = AcceptedLink(assembly.contexts, _address(key[0]), assembly.proven)
        self.links.add(link)
        assembly.settle(link)
        self.serving.start(link)

    def _authenticate(
        self, context: Context, metadata: Mapping[str, Any], nonce: str
    ) -> tuple[Proven | None, Metadata]:
        if self._authenticator is None:
            return None, ()
        return check_arrival(self._authenticator, context, metadata, nonce)

    def _drop(self, key: tuple[str, str], assembly: _Assembly) -> None:
        if self._assemblies.get(key) is assembly:
            del self._assemblies[key]
        assembly.settle(None)

    def _stream_ended(self, _context: object) -> None:
        self._streams -= 1


def _address(peer: str) -> str:
    """ipv4:127.0.0.1:80 or ipv6:%5B::1%5D:80, as gRPC names it -> host:port."""
    return unquote(peer).partition(":")[2]
