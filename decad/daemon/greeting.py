"""The first two messages of a link: both ends say Hello, compare, and answer Welcome or Refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from decad._proto import peer_pb2 as pb
from decad.config import PROTOCOL_VERSION
from decad.errors import MismatchError, PeerError, ProtocolError
from decad.membership.agreement import Difference, refusal_text
from decad.wire.messages import decode_control, encode_control
from decad.wire.transport import Link

PATIENCE_S = 10.0
"""A stranger that does not greet within this time is hung up on."""
MAX_NAME_CHARS = 64


class RefusedError(PeerError):
    """The other end, or this one, does not want the link, for a reason that needs no operator."""


class DuplicateError(RefusedError):
    """There is a better link to this peer already."""


class MyselfError(RefusedError):
    """The address leads back to this very daemon."""


async def greet(link: Link, mine: pb.Hello, judge: Callable[[pb.Hello], list[Difference]]) -> pb.Hello:
    """Exchange Hello and Welcome; returns the other's Hello.

    ``judge`` sees a well-formed Hello of the same protocol version and returns what differs (nothing: welcome), or
    raises RefusedError. Raises MismatchError with both values of every field that differs, RefusedError,
    ProtocolError on nonsense or silence, LinkClosed.
    """
    try:
        async with asyncio.timeout(PATIENCE_S):
            await link.control.send(encode_control(pb.ControlMessage(hello=mine)))
            theirs = await _receive(link, "hello")
    except TimeoutError:
        raise ProtocolError(
            f"{link.address} did not greet within {PATIENCE_S:.0f} s; the link is closed."
        ) from None
    hello = theirs.hello
    try:
        differing = _judge(mine, hello, judge)
    except RefusedError as error:
        await link.control.send(_refusal([], str(error)))
        raise
    if differing:
        await link.control.send(_refusal(differing, ""))
        raise MismatchError(refusal_text(hello.peer_id.hex(), differing))
    await link.control.send(encode_control(pb.ControlMessage(welcome=pb.Welcome())))
    try:
        async with asyncio.timeout(PATIENCE_S):
            await _receive(link, "welcome")
    except TimeoutError:
        raise ProtocolError(f"{link.address} greeted but sent no welcome; the link is closed.") from None
    return hello


def _judge(
    mine: pb.Hello, hello: pb.Hello, judge: Callable[[pb.Hello], list[Difference]]
) -> list[Difference]:
    if hello.protocol_version != PROTOCOL_VERSION:
        return [Difference("protocol_version", str(PROTOCOL_VERSION), str(hello.protocol_version))]
    if len(hello.peer_id) != 32 or len(hello.name) > MAX_NAME_CHARS or hello.listen_port > 65535:
        raise ProtocolError("a stranger sent a malformed greeting; the link is closed.")
    if hello.peer_id == mine.peer_id:
        if hello.instance == mine.instance:
            raise MyselfError("this address leads back to the peer itself")
        raise RefusedError("two daemons use one identity: give each machine a state directory of its own")
    return judge(hello)


async def _receive(link: Link, kind: str) -> pb.ControlMessage:
    message = decode_control(await link.control.receive())
    if message.HasField("refusal"):
        refusal = message.refusal
        if refusal.fields:
            # Named from the other's point of view: what is theirs there is ours here.
            fields = [Difference(f.field, f.theirs, f.ours) for f in refusal.fields[:32]]
            raise MismatchError(
                refusal_text("", fields).replace("Peer  cannot", f"The peer at {link.address} cannot")
            )
        raise RefusedError(refusal.reason[:200])
    if message.WhichOneof("kind") != kind:
        raise ProtocolError(
            f"{link.address} sent {message.WhichOneof('kind')} where {kind} belongs; the link is closed."
        )
    return message


def _refusal(differing: list[Difference], reason: str) -> bytes:
    fields = [pb.Refusal.Field(field=d.field, ours=d.mine, theirs=d.theirs) for d in differing]
    return encode_control(pb.ControlMessage(refusal=pb.Refusal(fields=fields, reason=reason)))
