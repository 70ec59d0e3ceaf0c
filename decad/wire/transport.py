"""What the daemon needs of a network: links of ordered byte channels.

A link joins two peers by three channels that never delay one another: ``control`` (small messages,
beacons), ``blocks`` (the active block) and ``fetch`` (inactive blocks for joiners). Each is reliable and
ordered in both directions while the link lives; a message arrives whole or not at all.
Twins: `decad.wire.grpc_transport` (real) and `decad.wire.memory` (tests, the laboratory).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from decad.wire.tls import Proven

Buffer: TypeAlias = bytes | memoryview


class Channel(Protocol):
    """One ordered duplex stream of messages."""

    async def send(self, message: bytes) -> None:
        """Return when the transport has taken the message (back-pressure). Raises LinkClosed.

        One sender task per channel. Never cancel a send in mid-flight, as by wait_for: that ends the channel.
        """
        ...

    async def receive(self) -> Buffer:
        """The next message. Raises LinkClosed when the other end or the link has ended.

        One receiver task per channel. What was sent before the other end closed the link comes first. A
        cancelled receive ends the channel, for a message may be lost with it.
        """
        ...


class Link(Protocol):
    """Three channels to one other process, which may or may not turn out to be a peer of this run."""

    control: Channel
    blocks: Channel
    fetch: Channel
    dialled: bool
    """True at the end that opened the link."""
    address: str
    """host:port of the other end as seen from here; for an accepted link the port is ephemeral."""
    proven: Proven | None
    """Who is at the other end, where the transport proves it."""

    async def close(self) -> None:
        """End the link at both ends; pending receives raise LinkClosed. Idempotent."""
        ...


OnLink = Callable[[Link], Awaitable[None]]


class Transport(Protocol):
    """Opens and accepts links."""

    async def listen(self, address: str, on_link: OnLink) -> str:
        """Accept links at ``host:port`` (port 0 picks one); returns the bound host:port.

        ``on_link`` runs for each accepted link, which ends when it returns or raises. NetworkError if taken.
        """
        ...

    async def dial(self, address: str, patience: float) -> Link:
        """Open a link to ``host:port`` within ``patience`` seconds. Raises LinkClosed with the reason."""
        ...

    async def close(self) -> None:
        """Stop accepting and end every link."""
        ...
