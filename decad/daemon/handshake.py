"""The first two messages of a link: both ends say Hello, compare, and answer Welcome or Refusal."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from decad._proto import peer_pb2 as pb
from decad.config import MAX_HOST_CHARS, MAX_NAME_CHARS, NAME_PATTERN, PROTOCOL_VERSION
from decad.errors import LinkClosed, MismatchError, PeerError, ProtocolError
from decad.membership.agreement import Difference, refusal_text
from decad.membership.identity import ID_BYTES, short_id
from decad.wire.limits import MAX_REFUSAL_FIELDS
from decad.wire.messages import decode_control, encode_control
from decad.wire.reasons import printable
from decad.wire.transport import Link

PATIENCE_S = 10.0
"""Who has not completed the handshake within this time is hung up on."""


class RefusedError(PeerError):
    """The other end, or this one, does not want the link, for a reason that needs no operator."""


class DuplicateError(RefusedError):
    """There is a better link to this peer already."""


class MyselfError(RefusedError):
    """The address leads back to this very daemon."""


class DuplicateIdentityError(MismatchError):
    """Another daemon uses this peer's identity: the state directory of one is a copy of the other's."""


class SecondDaemonError(MismatchError):
    """A peer with which this one is linked has come once more, as another daemon with its identity."""


COPIED = (
    "The state directory was copied. Stop one of the two, and start it with another --state-dir; or remove "
    "identity.pem from its copy, which then goes on with its checkpoint as a peer of its own."
)
"""What to do about two daemons with one identity."""


@dataclass
class Handshake:
    """One link while both ends introduce themselves; what the other says of itself is filled in as it comes."""

    link: Link
    dialled: str | None = None
    """The address that we dialled; None when the other end did."""
    peer: str = ""
    """Its id, once it has said Hello."""
    address: str = ""
    """Where it may be dialled; empty if that is not known or cannot be."""
    hello: pb.Hello = field(default_factory=pb.Hello)
    """What it said."""


Judge = Callable[[pb.Hello], Awaitable[list[Difference]]]
"""Sees a well-formed Hello of the same protocol version and returns what differs (nothing: welcome), or raises
RefusedError or SecondDaemonError."""


async def shake_hands(link: Link, mine: pb.Hello, judge: Judge) -> pb.Hello:
    """Exchange Hello and Welcome; returns the other's Hello.

    Raises MismatchError with both values of every field that differs, DuplicateIdentityError, SecondDaemonError,
    RefusedError, ProtocolError on nonsense or silence, LinkClosed.
    """
    try:
        async with asyncio.timeout(PATIENCE_S):
            await _say(link, pb.ControlMessage(hello=mine))
            hello = (await _receive(link, "hello")).hello
            await _answer(link, mine, hello, judge)
            answer = await _receive(link, "welcome", "refusal")
    except TimeoutError:
        raise ProtocolError(
            f"{link.address} did not complete the handshake within {PATIENCE_S:.0f} s; the link is closed."
        ) from None
    if answer.HasField("refusal"):
        raise _refused(answer.refusal, hello.peer_id.hex())
    return hello


async def _answer(link: Link, mine: pb.Hello, hello: pb.Hello, judge: Judge) -> None:
    try:
        differing = await _judge(link, mine, hello, judge)
    except (RefusedError, DuplicateIdentityError, SecondDaemonError) as error:
        duplicate = not isinstance(error, RefusedError)
        refusal = pb.Refusal(reason=str(error), duplicate_identity=duplicate)
        await _say(link, pb.ControlMessage(refusal=refusal))
        raise
    if differing:
        fields = [pb.Refusal.Field(field=d.field, ours=d.mine, theirs=d.theirs) for d in differing]
        await _say(link, pb.ControlMessage(refusal=pb.Refusal(fields=fields)))
        raise MismatchError(refusal_text(hello.peer_id.hex(), differing))
    await _say(link, pb.ControlMessage(welcome=pb.Welcome()))


async def _judge(link: Link, mine: pb.Hello, hello: pb.Hello, judge: Judge) -> list[Difference]:
    if hello.protocol_version != PROTOCOL_VERSION:
        return [Difference("protocol_version", str(PROTOCOL_VERSION), str(hello.protocol_version))]
    if (
        len(hello.peer_id) != ID_BYTES
        or len(hello.name) > MAX_NAME_CHARS
        or not re.fullmatch(NAME_PATTERN, hello.name)
        or hello.listen_port > 65535
        or len(hello.listen_host) > MAX_HOST_CHARS
        or not hello.listen_host.isprintable()
    ):
        raise ProtocolError("who dialled here sent a malformed Hello; the link is closed.")
    if link.proven is not None and hello.peer_id.hex() != link.proven.peer:
        raise ProtocolError(
            f"peer {short_id(link.proven.peer)} at {link.address} says that it is {short_id(hello.peer_id.hex())}; the "
            "link is closed."
        )
    if hello.peer_id == mine.peer_id:
        if hello.instance == mine.instance:
            raise MyselfError("this address leads back to the peer itself")
        raise DuplicateIdentityError(f"Another daemon uses this peer's identity. {COPIED}")
    return await judge(hello)


async def _receive(link: Link, *kinds: str) -> pb.ControlMessage:
    message = decode_control(await link.control.receive())
    if (kind := message.WhichOneof("kind")) not in kinds:
        raise ProtocolError(f"{link.address} sent {kind} where {kinds[0]} belongs; the link is closed.")
    return message


def _refused(refusal: pb.Refusal, peer: str) -> PeerError:
    if refusal.duplicate_identity:
        return DuplicateIdentityError(
            f"Peer {short_id(peer)} refuses this one: it is linked with another daemon that has the same identity. "
            f"{COPIED}"
        )
    if not refusal.fields:
        return RefusedError(printable(refusal.reason))
    # Named from the other's point of view: what is theirs there is ours here.
    return MismatchError(
        refusal_text(
            peer, [Difference(f.field, f.theirs, f.ours) for f in refusal.fields[:MAX_REFUSAL_FIELDS]]
        )
    )


async def _say(link: Link, message: pb.ControlMessage) -> None:
    # The other end may have come to its answer first and closed the link; what it said is still to be read.
    with suppress(LinkClosed):
        await link.control.send(encode_control(message))
