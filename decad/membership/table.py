"""The peers we have met and whether they are there: alive, suspect or gone.

Pure: events in, transitions out; time is an argument (seconds, monotonic). A peer enters with its first
working link. Being gone ends its link in the eyes of the table: whoever acts on the transition closes it,
and only a new link brings the peer back.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from decad.membership.suspicion import Hearing

TICK_S = 0.25
"""Seconds between two calls of `PeerTable.tick`."""

STALL_S = 1.0
"""Seconds between two ticks beyond which we ourselves stood still (a busy machine, a laptop asleep): what is more than
this is held against nobody."""

LINK_GRACE_S = 2.0
"""Seconds that a peer whose link closed has to come back before it is gone."""

GONE_KEPT = 256
"""Gone peers that are remembered, the latest: a network where many come and go must not grow the table."""

Origin = Literal["mdns", "peers", "exchange", "inbound"]
"""How we learnt of a peer: multicast DNS, --peers, from another peer, or because it dialled us."""


class State(enum.Enum):
    ALIVE = "alive"
    SUSPECT = "suspect"
    GONE = "gone"


class Stage(enum.IntEnum):
    """What a peer says that it does; the numbers are peer.proto's."""

    AWAY = 0
    READY = 1
    TRAINING = 2


class Transition(NamedTuple):
    """A peer's state changed. A peer that was never there before comes from GONE."""

    peer: str
    old: State
    new: State
    reason: str


@dataclass
class Peer:
    """What is known of one peer. Read by everybody, written by the table alone."""

    id: str
    name: str
    """Given by its operator; empty when it has none."""
    address: str
    """host:port where it accepts links; empty when it accepts none."""
    found: Origin
    instance: int
    """Drawn at each of its starts."""
    state: State
    since: float
    """When it came into this state."""
    reason: str
    last_seen: float
    step: int = 0
    stage: Stage = Stage.AWAY
    view: frozenset[str] = frozenset()
    """Ids of the peers that it said it can mix with."""
    round_trip_s: float | None = None
    """Of the last beacon that was answered; None until known."""
    _link: object | None = None
    _silent_since: float = 0.0
    _hearing: Hearing = field(default_factory=Hearing)


class PeerTable:
    """All peers by id. Each event returns the transitions that it caused, in order."""

    def __init__(self, now: float) -> None:
        self._peers: dict[str, Peer] = {}
        self._ticked = now

    def __getitem__(self, peer: str) -> Peer:
        return self._peers[peer]

    def __contains__(self, peer: object) -> bool:
        return peer in self._peers

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Every peer on record, in the order of ids."""
        return tuple(self._peers[peer] for peer in sorted(self._peers))

    @property
    def linked(self) -> frozenset[str]:
        """Ids of the peers that we have a link to, alive or suspect."""
        return frozenset(p.id for p in self._peers.values() if p._link is not None)

    @property
    def mixing(self) -> frozenset[str]:
        """Ids of the peers that are alive and training: the view that we send to others."""
        return self._alive(Stage.TRAINING)

    @property
    def ready(self) -> frozenset[str]:
        """Ids of the peers that are alive, and train or would if enough others did."""
        return self._alive(Stage.READY)

    def link_up(
        self, peer: str, link: object, now: float, *, name: str, address: str, found: Origin, instance: int
    ) -> list[Transition]:
        """A link to ``peer`` works: both ends said Welcome. ``link`` is any object that tells it from
        others.

        A second link replaces the first without a transition; another ``instance`` means that the peer
        restarted meanwhile, and takes it through GONE so that nothing of its old self is kept.
        """
        made: list[Transition] = []
        record = self._peers.get(peer)
        if record is not None and record.instance != instance:
            if record.state is not State.GONE:
                made.append(self._move(record, State.GONE, "it restarted", now))
            record = None
        if record is None:
            record = Peer(peer, name, address, found, instance, State.GONE, now, "not met yet", now)
            self._peers[peer] = record
        record.name, record.address, record.found = name, address, found
        record._hearing.interrupted()
        record._link = link
        record.last_seen = record._silent_since = now
        if record.state is not State.ALIVE:
            made.append(self._move(record, State.ALIVE, "its link is up", now))
        return made

    def link_down(self, peer: str, link: object, reason: str, now: float) -> list[Transition]:
        """``link`` ended; nothing happens if it was replaced before, or the peer is gone already."""
        record = self._peers.get(peer)
        if record is None or record._link is not link:
            return []
        record._link = None
        record._hearing.interrupted()
        record._silent_since = now
        if record.state is State.SUSPECT:
            return []
        return [self._move(record, State.SUSPECT, f"its link closed: {reason}", now)]

    def heard(
        self, peer: str, now: float, *, step: int, stage: Stage, round_trip_s: float | None = None
    ) -> list[Transition]:
        """A beacon came. Those that were still under way when the link ended change nothing."""
        record = self._peers.get(peer)
        if record is None or record._link is None:
            return []
        record._hearing.heard(now)
        record.step, record.stage = step, stage
        if round_trip_s is not None:
            record.round_trip_s = round_trip_s
        return self.seen(peer, now)

    def seen(self, peer: str, now: float) -> list[Transition]:
        """Something else than a beacon came, which is as much a sign of life.

        On a narrow line beacons stand in the same queues of the kernel and of gRPC as blocks, for seconds. How
        often such messages come tells nothing of how often beacons do, so patience is not learnt from them.
        """
        record = self._peers.get(peer)
        if record is None or record._link is None:
            return []
        record.last_seen = record._silent_since = now
        if record.state is State.ALIVE:
            return []
        return [self._move(record, State.ALIVE, "it is heard again", now)]

    def viewed(self, peer: str, mixing: frozenset[str]) -> None:
        """A view came: the ids that ``peer`` can mix with."""
        if peer in self._peers:
            self._peers[peer].view = mixing

    def goodbye(self, peer: str, reason: str, now: float) -> list[Transition]:
        """The peer said that it stops."""
        record = self._peers.get(peer)
        if record is None or record.state is State.GONE:
            return []
        return [
            self._move(record, State.GONE, f"it said goodbye: {reason}" if reason else "it said goodbye", now)
        ]

    def tick(self, now: float) -> list[Transition]:
        """Time passed: suspect the silent, give up the suspects. Call it every TICK_S, and at least every STALL_S."""
        stall = max(0.0, now - self._ticked - STALL_S)
        self._ticked = now
        made: list[Transition] = []
        for record in self.peers:
            if record.state is State.GONE:
                continue
            # What was heard during the stall is newer than it.
            record._silent_since = min(now, record._silent_since + stall)
            silence = now - record._silent_since
            suspect_s, gone_s = record._hearing.patience
            if record._link is None:
                if silence >= LINK_GRACE_S:
                    made.append(self._move(record, State.GONE, f"{record.reason}; it did not come back", now))
            elif silence >= gone_s:
                made.append(self._move(record, State.GONE, f"silent for {silence:.1f} s", now))
            elif silence >= suspect_s and record.state is State.ALIVE:
                made.append(self._move(record, State.SUSPECT, f"silent for {silence:.1f} s", now))
        return made

    def _alive(self, least: Stage) -> frozenset[str]:
        return frozenset(p.id for p in self._peers.values() if p.state is State.ALIVE and p.stage >= least)

    def _move(self, record: Peer, new: State, reason: str, now: float) -> Transition:
        old, record.state, record.since, record.reason = record.state, new, now, reason
        if new is State.GONE:
            record._link = None
            record._hearing.interrupted()
            record.stage, record.view = Stage.AWAY, frozenset()
            self._forget_oldest()
        return Transition(record.id, old, new, reason)

    def _forget_oldest(self) -> None:
        gone = sorted((p for p in self._peers.values() if p.state is State.GONE), key=lambda p: p.since)
        for record in gone[: max(0, len(gone) - GONE_KEPT)]:
            del self._peers[record.id]
