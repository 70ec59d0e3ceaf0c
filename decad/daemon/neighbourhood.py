"""The neighbours as the trainer sees them: who trains, how far each is, and with whom to mix."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from decad.core.chebyshev import contraction
from decad.core.overlay import neighbours
from decad.daemon.context import PeerContext
from decad.membership.credible import (
    LoneLeaders,
    StepBound,
    reached_by_half,
    reached_by_most,
    reached_by_two,
)
from decad.membership.edges import mixing_edges
from decad.membership.identity import short_id
from decad.membership.table import PeerTable, State

MOST_NAMED = 6
"""Peers that one line of a log or a status names."""


class Neighbourhood:
    """Answers from the peer table."""

    def __init__(self, context: PeerContext, table: PeerTable) -> None:
        self._me, self._name, self._run = context.peer_id, context.config.name, context.run
        self._table = table
        self._lone = LoneLeaders()
        self._contraction: tuple[frozenset[str], float] | None = None
        """For whom it was computed, and it."""
        self.bound: StepBound | None = None
        """What this peer's own pace makes of others' steps; None until it trains."""
        self.changed = asyncio.Event()
        """Set to end every `wait_change`."""

    async def wait_change(self) -> None:
        """Return when something changed about the neighbours."""
        self.changed.clear()
        await self.changed.wait()

    def edges(self) -> frozenset[str]:
        """Neighbours to mix with in the next step."""
        views = {p.id: p.view for p in self._table.peers if p.state is State.ALIVE}
        overlay = self._run.spec.overlay
        return mixing_edges(self._me, overlay, self._names(), self._table.mixing, views)

    def contraction(self) -> float:
        """How much of what keeps all that train apart is left by mixing once (`chebyshev.contraction`)."""
        members = frozenset({*self._table.mixing, self._me})
        if self._contraction is None or self._contraction[0] != members:
            self._contraction = members, contraction(self._run.spec.overlay, members, self._names())
        return self._contraction[1]

    def highest_step(self) -> int | None:
        """The furthest step that is to be believed of all peers that train or are ready to; None without any."""
        if not self._table.ready:
            return None
        if self.bound is None:
            return reached_by_most([self._table[peer].step for peer in self._table.ready])
        return self._believed(self._table.ready)

    def furthest_neighbour(self) -> int | None:
        """The furthest step that is to be believed of the neighbours to mix with; None without any."""
        near = self.edges()
        return self._believed(near) if near else None

    def followed(self, step: int) -> None:
        """This peer skips to ``step``: whoever is alone there is not followed again soon."""
        heard = [self._table[peer].step for peer in self._table.ready]
        if step > max(reached_by_half(heard), reached_by_two(heard)):
            for peer in self._table.ready:
                if self._table[peer].step >= step:
                    self._lone.followed(peer)

    def _believed(self, peers: Collection[str]) -> int:
        """The furthest step of these. A claim beyond all belief is not even taken as far as it could be true."""
        claims = {peer: self._table[peer].step for peer in peers}
        bound = self.bound
        if bound is None:
            return max(claims.values())
        now = asyncio.get_running_loop().time()
        heard = {peer: self._table[peer].step for peer in self._table.ready}
        for peer, step in heard.items():
            self._lone.seen(peer, step - bound.mine, now)
        possible = bound.most(now)
        shared = possible if len(heard) < 2 else min(possible, reached_by_two(heard.values()))
        most = max(shared, reached_by_half(heard.values()))

        def explained(peer: str, step: int) -> bool:
            return self._lone.explained(peer, step - bound.mine, now, bound.fastest_s)

        return max(
            (step for peer, step in claims.items() if step <= max(most, bound.mine) or explained(peer, step)),
            default=0,
        )

    def furthest(self) -> list[str]:
        """Peers that train or are ready to, within a step of the furthest of them, in the order of ids."""
        highest = self.highest_step() or 0
        return sorted(peer for peer in self._table.ready if self._table[peer].step >= highest - 1)

    def anybody_before(self, step: int) -> bool:
        """Whether a neighbour to mix with has yet to take the step before ``step``."""
        return any(self._table[peer].step < step for peer in self.edges())

    def last_seen(self, peer: str) -> float:
        """When a peer that was met gave the last sign of life, on the loop's clock."""
        return self._table[peer].last_seen

    @property
    def known_to_neighbours(self) -> bool:
        """Whether all that train and that the overlay joins us with, as we see it, see it so too."""
        members = {*self._table.mixing, self._me}
        return self.edges() == neighbours(self._run.spec.overlay, members, self._me, self._names())

    @property
    def ready(self) -> int:
        """How many others train, or would if enough others did."""
        return len(self._table.ready)

    @property
    def all_have_begun(self) -> bool:
        """Whether all that would train do."""
        return self._table.ready == self._table.mixing

    def name_of(self, peer: str) -> str:
        """The name that its operator gave it; the short id of one without a name."""
        return (self._table[peer].name if peer in self._table else "") or short_id(peer)

    def label(self, peer: str) -> str:
        """For the operator: anybody may choose any name, so the short id stands beside it."""
        name = self.name_of(peer)
        return name if name == short_id(peer) else f"{name} ({short_id(peer)})"

    def labels(self, peers: Iterable[str]) -> str:
        """`label` of each, for one line: of more than six the first six, and how many others."""
        named = sorted(map(self.label, peers))
        others = len(named) - MOST_NAMED
        return ", ".join(named) if others <= 0 else f"{', '.join(named[:MOST_NAMED])} and {others} more"

    def _names(self) -> dict[str, str]:
        names = {p.id: p.name for p in self._table.peers if p.name}
        if self._name:
            names[self._me] = self._name
        return names
