"""The in-memory twin of the gRPC transport: many peers in one process, for tests and the laboratory.

Deterministic: only the last moment of `MemoryTransport.close` looks at a clock. A `MemoryNetwork` holds who
listens where and which links there are, and can cut, heal and kill.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import count

from decad.config import split_address
from decad.errors import InternalError, LinkClosed, NetworkError
from decad.wire.accepted import AcceptedLinks
from decad.wire.limits import MAX_MESSAGE_BYTES
from decad.wire.tls import Proven
from decad.wire.transport import Channel, OnLink

WINDOW_MESSAGES = 4
"""Messages that one direction of a channel holds before its sender waits, as gRPC's few MiB of windows do."""
FIRST_PORT = 49_152
"""Where the ports that port 0 picks begin."""
PATIENCE_S = 0.5
"""How long ``on_link`` may take to end when its link has ended; then it is cancelled."""


class MemoryNetwork:
    """Addresses, the links between them, and the faults that a simulation injects."""

    def __init__(self) -> None:
        self._listeners: dict[str, tuple[MemoryTransport, AcceptedLinks]] = {}
        self._ends: dict[MemoryLink, None] = {}  # in the order of their opening, so that runs repeat
        self._cut: set[frozenset[str]] = set()
        self._ports = count(FIRST_PORT)

    def cut(self, a: str, b: str) -> None:
        """No connection between hosts ``a`` and ``b`` from now on: links end at both ends, dialling fails."""
        self._cut.add(frozenset((a, b)))
        for end in [end for end in self._ends if (end.owner.host, end.far.owner.host) == (a, b)]:
            end.lose("the network was cut")

    def heal(self, a: str, b: str) -> None:
        """Undo `cut`; links that it ended stay ended."""
        self._cut.discard(frozenset((a, b)))

    def kill(self, host: str) -> None:
        """End ``host`` as SIGKILL does: its links and listeners are gone, and nobody says goodbye."""
        for address in [a for a, (owner, _) in self._listeners.items() if owner.host == host]:
            del self._listeners[address]
        for end in [end for end in self._ends if end.owner.host == host]:
            end.lose("connection reset by peer")

    def bind(self, owner: MemoryTransport, address: str, accepted: AcceptedLinks) -> str:
        """Let ``owner`` accept links at ``address``; returns host:port. Raises NetworkError if taken."""
        host, port = split_address(address)
        bound = f"{host}:{port or next(self._ports)}"
        if bound in self._listeners:
            raise NetworkError(f"cannot listen on {bound}: address already in use. Choose another port.")
        self._listeners[bound] = owner, accepted
        return bound

    def connect(self, owner: MemoryTransport, address: str) -> MemoryLink:
        """Link ``owner`` with who listens at ``address``; returns the dialling end. Raises LinkClosed."""
        if address not in self._listeners:
            raise LinkClosed(f"{address}: connection refused.")
        listener, accepted = self._listeners[address]
        if frozenset((owner.host, listener.host)) in self._cut:
            raise LinkClosed(f"{address}: no route to host.")
        near = MemoryLink(self._ends, owner, address, dialled=True)
        far = MemoryLink(self._ends, listener, f"{owner.host}:{next(self._ports)}", dialled=False)
        near.join(far)
        accepted.start(far)
        return near

    def forget(self, owner: MemoryTransport) -> list[MemoryLink]:
        """Nobody reaches ``owner`` any more; returns its open links."""
        for address in [a for a, (listener, _) in self._listeners.items() if listener is owner]:
            del self._listeners[address]
        return [end for end in self._ends if end.owner is owner]


class MemoryTransport:
    """`decad.wire.transport.Transport` of one host of a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self.host = host
        self._network = network
        self._accepted: list[AcceptedLinks] = []

    async def listen(self, address: str, on_link: OnLink) -> str:
        accepted = AcceptedLinks(on_link)
        bound = self._network.bind(self, address, accepted)
        self._accepted.append(accepted)
        return bound

    async def dial(self, address: str, patience: float) -> MemoryLink:
        return self._network.connect(self, address)

    async def close(self) -> None:
        for link in self._network.forget(self):
            await link.close()
        for accepted in self._accepted:
            await accepted.close(PATIENCE_S)


class _Pipe:
    """One direction of a channel, with one task that puts and one that gets."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.moved = asyncio.Event()
        """Set at every change; only one of the two tasks can be waiting for it."""


class MemoryChannel:
    """One end of a channel."""

    def __init__(self, link: MemoryLink) -> None:
        self._link = link
        self.incoming = _Pipe()
        self.outgoing = _Pipe()

    async def send(self, message: bytes) -> None:
        if len(message) > MAX_MESSAGE_BYTES:
            raise InternalError(f"a message of {len(message)} bytes exceeds {MAX_MESSAGE_BYTES}.")
        pipe = self.outgoing
        while len(pipe.messages) >= WINDOW_MESSAGES and not self._link.ended:
            pipe.moved.clear()
            await pipe.moved.wait()
        if self._link.ended:
            raise LinkClosed(self._link.ended)
        pipe.messages.append(message)
        pipe.moved.set()

    async def receive(self) -> bytes:
        pipe = self.incoming
        while not pipe.messages and not self._link.ended:
            pipe.moved.clear()
            await pipe.moved.wait()
        if not pipe.messages:
            raise LinkClosed(self._link.ended)
        pipe.moved.set()
        return pipe.messages.popleft()


class MemoryLink:
    """One end of a link; ``far`` is the other."""

    far: MemoryLink

    def __init__(
        self, ends: dict[MemoryLink, None], owner: MemoryTransport, address: str, *, dialled: bool
    ) -> None:
        self.owner = owner
        self.address = address
        self.dialled = dialled
        self.proven: Proven | None = None
        self.ended = ""
        """Why the link ended; empty while it lives."""
        self._ends = ends
        self._channels = (MemoryChannel(self), MemoryChannel(self), MemoryChannel(self))
        self.control: Channel
        self.blocks: Channel
        self.fetch: Channel
        self.control, self.blocks, self.fetch = self._channels

    def join(self, far: MemoryLink) -> None:
        """Make the two ends one link."""
        self.far, far.far = far, self
        for mine, theirs in zip(self._channels, far._channels, strict=True):
            theirs.incoming, theirs.outgoing = mine.outgoing, mine.incoming
        self._ends[self] = self._ends[far] = None

    def lose(self, reason: str) -> None:
        """The connection broke: what was under way is lost."""
        self._end(reason, reason, under_way_is_lost=True)

    async def close(self) -> None:
        self._end("the link was closed here", "the other end closed the link", under_way_is_lost=False)

    def _end(self, here: str, there: str, *, under_way_is_lost: bool) -> None:
        if self.ended:
            return
        self.ended, self.far.ended = f"{self.address}: {here}.", f"{self.far.address}: {there}."
        del self._ends[self], self._ends[self.far]
        for channel in self._channels:
            channel.incoming.messages.clear()
            if under_way_is_lost:
                channel.outgoing.messages.clear()
            channel.incoming.moved.set()
            channel.outgoing.moved.set()
