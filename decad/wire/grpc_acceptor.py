"""How the accepting end makes links: the three streams of one arrive as separate calls with the same random nonce."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from urllib.parse import unquote

import grpc
import grpc.aio

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
from decad.wire.transport import OnLink


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether gRPC logs something else than that the last status of a call finds the connection broken."""
    return record.exc_info is None or getattr(record.exc_info[0], "__name__", "") != "ExecuteBatchError"


logging.getLogger("grpc._cython.cygrpc").addFilter(_is_worth_a_line)


class _Assembly:
    """The streams of one link that have arrived so far."""

    def __init__(self) -> None:
        self.contexts: dict[str, Context] = {}
        self.link: asyncio.Future[AcceptedLink | None] = asyncio.get_running_loop().create_future()
        """None: dropped."""

    def settle(self, link: AcceptedLink | None) -> None:
        if not self.link.done():
            self.link.set_result(link)


class Acceptor:
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

    async def _arrived(self, name: str, _requests: object, context: Context) -> None:
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
        except BROKEN:
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


def _address(peer: str) -> str:
    """ipv4:127.0.0.1:80 or ipv6:%5B::1%5D:80, as gRPC names it -> host:port."""
    return unquote(peer).partition(":")[2]
