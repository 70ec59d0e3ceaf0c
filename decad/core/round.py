"""One step's exchange as a state machine: event in, actions out; no tensors, no clock, no I/O.

The caller reports headers, chunks, sends and losses as they happen and passes the time; the round says what
to mix, in which order and with which weight, and when to go on and why. The same events give the same actions.

Chunks of different neighbours are accumulated in peer-id order per chunk index, so that sums do not depend on
arrival. A neighbour that runs further ahead than ``WINDOW`` chunks is taken out of turn rather than held back:
one dead neighbour must not stop the others' blocks (docs/adr/0007).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

WINDOW = 32
"""Chunks of one neighbour held for their turn: 32 MiB bounds the memory, and whole layers up to 8 M parameters."""


class Accumulate(NamedTuple):
    """Mix this held chunk now."""

    neighbour: str
    chunk: int
    weight: float


class Reason(enum.StrEnum):
    """Why a step goes on."""

    COMPLETE = "complete"
    ALONE = "alone"
    DEADLINE = "deadline"
    LOST = "lost"
    SLOW = "slow"


class Proceed(NamedTuple):
    """The exchange of this step is over."""

    reason: Reason
    missing: tuple[str, ...]
    """Neighbours whose block is not mixed, or only in part."""
    unheard: tuple[str, ...]
    """Those of them whose message had not even begun, and that are waited for."""
    late: tuple[str, ...] = ()
    """Those whose deadline passed before they had sent and taken everything."""


Action = Accumulate | Proceed


@dataclass
class _Peer:
    weight: float | None = None
    """The edge's mixing weight; None until the message begins."""
    received: int = 0
    """Chunks that came, in order; those from ``mixed`` on are held."""
    mixed: int = 0
    sent: bool = False
    out: bool = False
    slow: bool = False
    tardy: bool = False
    late: bool = False


class Round:
    """The exchange of one step with the neighbours that the overlay gives at its start.

    ``weight``: my degree and theirs -> mixing weight of the edge. ``chunks``: of one whole message. ``slow``: those
    of the neighbours that are not waited for until their message begins; ``tardy``: those never waited for.
    """

    def __init__(
        self,
        neighbours: Iterable[str],
        chunks: int,
        weight: Callable[[int, int], float],
        slow: Collection[str] = (),
        tardy: Collection[str] = (),
    ) -> None:
        self._peers = {peer: _Peer(slow=peer in slow, tardy=peer in tardy) for peer in sorted(neighbours)}
        self._chunks = chunks
        self._weight = weight
        self._deadline: float | None = None
        self._over = False

    @property
    def degree(self) -> int:
        """Neighbours counted in this step; announced in the header, it fixes the edges' weights."""
        return len(self._peers)

    @property
    def neighbours(self) -> tuple[str, ...]:
        return tuple(self._peers)

    def weight(self, neighbour: str) -> float:
        """The edge's mixing weight; 0 before its header came."""
        peer = self._peers.get(neighbour)
        return (peer.weight or 0.0) if peer else 0.0

    def wants(self, neighbour: str) -> bool:
        """Whether this neighbour's chunks can still be mixed."""
        peer = self._peers.get(neighbour)
        return peer is not None and not peer.out and not self._over

    def full(self, neighbour: str) -> bool:
        """Whether the window is full while nothing may be mixed yet: read no more from it for now."""
        return self._deadline is None and self.wants(neighbour) and self._peers[neighbour].received >= WINDOW

    def waiting_for(self) -> tuple[str, ...]:
        """Neighbours that the round still waits for."""
        return tuple(name for name, peer in self._peers.items() if not self._done(peer))

    def header(self, neighbour: str, degree: int) -> bool:
        """A neighbour's message of this step begins. False: do not report its chunks, they are not to be mixed.

        Only the first message of a step is mixed; a neighbour may send it again in full, to be decoded.
        """
        if not self.wants(neighbour) or self._peers[neighbour].weight is not None:
            return False
        self._peers[neighbour].weight = self._weight(self.degree, degree)
        return True

    def chunk(self, neighbour: str) -> list[Action]:
        """The next chunk of an accepted message came; the caller holds it by its number over all sections.

        Only while the round `wants` it.
        """
        self._peers[neighbour].received += 1
        return self._release()

    def half_ready(self, deadline: float) -> list[Action]:
        """My local Adam step is done: mixing may begin, and waiting ends at ``deadline`` (same clock as tick)."""
        self._deadline = deadline
        return self._release()

    def sent(self, neighbour: str) -> list[Action]:
        """My whole message went to this neighbour."""
        if neighbour in self._peers:
            self._peers[neighbour].sent = True
        return self._release()

    def lost(self, neighbour: str) -> list[Action]:
        """This neighbour will send nothing more for this step: it died, left, or is already at a later one."""
        if neighbour in self._peers:
            self._peers[neighbour].out = True
        return self._release()

    def tick(self, now: float) -> list[Action]:
        """Time passed."""
        if self._over or self._deadline is None or now < self._deadline:
            return []
        for peer in self._peers.values():
            if not self._done(peer):
                peer.out = peer.late = True
        return self._release(Reason.DEADLINE)

    def _done(self, peer: _Peer) -> bool:
        unheard = peer.slow and peer.weight is None
        return peer.out or peer.tardy or (peer.sent and (unheard or peer.received == self._chunks))

    def _release(self, reason: Reason = Reason.LOST) -> list[Action]:
        if self._deadline is None or self._over:
            return []
        actions: list[Action] = []
        over = all(self._done(peer) for peer in self._peers.values())
        # The lowest chunk that a neighbour still owes holds back that chunk and later ones of higher ids.
        owed = self._chunks
        for name, peer in self._peers.items():
            until = min(peer.received, max(owed, peer.received - WINDOW))
            actions += [Accumulate(name, chunk, self.weight(name)) for chunk in range(peer.mixed, until)]
            peer.mixed = max(peer.mixed, until)
            if not peer.out and not over:
                owed = min(owed, peer.received)
        if over:
            self._over = True
            missing = tuple(n for n, p in self._peers.items() if p.received < self._chunks)
            unheard = tuple(n for n, p in self._peers.items() if p.weight is None and not p.tardy)
            late = tuple(n for n, p in self._peers.items() if p.late)
            if not self._peers:
                reason = Reason.ALONE
            elif not missing and reason is not Reason.DEADLINE:
                reason = Reason.COMPLETE
            elif reason is Reason.LOST and all(self._peers[n].slow or self._peers[n].tardy for n in missing):
                reason = Reason.SLOW
            actions.append(Proceed(reason, missing, unheard, late))
        return actions
