"""A run's steps as events on lines of limited bandwidth: how long a step takes, and what its deadlines cost.

Peers compute, send their block to every neighbour, wait for the neighbours' until the deadline that the daemon's own
`Pace` derives, and go on, as docs/protocol.md says: a message is mixed only into the step that it was made for; who is
less than half as fast is not waited for; who is more than a step behind skips ahead; what was not sent when a step
ends is dropped.

Messages are fluids and not chunks: the streams under way share the uplinks and downlinks fairly (`fair_rates`), so
there are a handful of events a message whatever its size, and each is handled for all peers at once with numpy. A
simulator of processes (SimPy) would have a process a stream, all of which would have to be told of each change of rate.

Approximated: TCP takes its share at once and loses nothing; what its buffers hold is not counted as sent; with more
than `EXACT` peers, events closer together than `GRAIN` of a typical step are handled as one; one block is trained, as
if it had been visited in earlier rounds; a failed peer's edges are missing, and no others take their place; one that
returns has fetched what it missed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decad.core.deadline import Pace
from decad.core.overlay import edge_weight
from decad.lab.contraction import second_modulus
from decad.lab.distributions import Floats
from decad.lab.network import Load, Network, Outcome
from decad.lab.sharing import Integers, fair_rates
from decad.membership.suspicion import SUSPECT_FLOOR_S

Booleans = NDArray[np.bool_]

FRAMING = 1.06
"""Bytes on the line for a byte of the block: Ethernet, IP and TCP headers of full frames, acknowledgements, HTTP/2."""
EXACT = 200
"""Peers up to which every event is handled by itself."""
GRAIN = 0.005
"""Of a typical step."""
BLOCK = 0
"""The block that is trained."""


def simulate(network: Network, load: Load, steps: int, learning: int, chance: np.random.Generator) -> Outcome:
    """Run ``learning`` steps and then ``steps`` more, of which the outcome tells."""
    return _Simulation(network, load, learning, learning + steps, chance).run()


class _Simulation:
    """All arrays are by peer [N] or, from ``source`` on, by edge [E], sorted by who receives."""

    def __init__(
        self, network: Network, load: Load, first: int, end: int, chance: np.random.Generator
    ) -> None:
        self.load, self.first, self.end, self.chance = load, first, end, chance
        self.compute, self.up, self.down = network.compute, network.uplink, network.downlink
        self.peers = n = network.peers
        order = np.lexsort((network.source, network.target))
        self.source, self.target, self.delay = (
            network.source[order],
            network.target[order],
            network.delay[order],
        )
        place = {
            edge: number
            for number, edge in enumerate(zip(self.source.tolist(), self.target.tolist(), strict=True))
        }
        self.back = np.array([place[b, a] for a, b in place], dtype=np.int64)
        self.bounds = np.searchsorted(self.target, np.arange(n + 1)).tolist()
        degree = np.bincount(self.target, minlength=n)
        self.weight = np.array(
            [edge_weight(network.overlay, int(degree[a]), int(degree[b])) for a, b in place]
        )
        e = len(place)

        self.now = 0.0
        self.alive = np.ones(n, dtype=bool)
        self.returns = np.full(n, np.inf)
        self.silent = np.zeros(n)
        """Since when."""
        self.step = np.zeros(n, dtype=np.int64)
        self.begun = np.zeros(n)
        self.took = np.zeros(n)
        """Seconds that this step's half-step takes."""
        self.half = np.full(n, np.inf)
        """When it is done."""
        self.past_half = np.full(n, np.nan)
        """When that of the step before was."""
        self.mixing = np.zeros(n, dtype=bool)
        self.limit = np.full(n, np.inf)
        """The deadline."""
        self.pace = [Pace() for _ in range(n)]

        self.made = np.full(e, -1, dtype=np.int64)
        """The step that the message under way, or the last one, was made for."""
        self.size = np.zeros(e)
        """Its bytes on the line."""
        self.left = np.zeros(e)
        """Bytes of it that are not on the line yet."""
        self.started = np.full(e, np.inf)
        self.sent = np.full(e, np.inf)
        self.arrives = np.full(e, np.inf)
        self.arrived = np.full(e, np.inf)
        """When the message for the receiver's step had come; infinity: it has not. `opened`: when it began to."""
        self.opened = np.full(e, np.inf)
        self.whole = np.zeros(e, dtype=bool)
        """Whether the last message came to its end, so that the next one may build on it."""
        self.due = np.zeros(e, dtype=bool)
        """Whether the receiver's step counts on the sender."""
        self.slow = np.zeros(e, dtype=bool)
        self.lost = np.zeros(e, dtype=bool)

        self.opened_first = np.full(n, np.nan)
        self.opened_last = np.full(n, np.nan)
        self.steps_first = np.zeros(n, dtype=np.int64)
        self.steps_last = np.zeros(n, dtype=np.int64)
        self.parts = np.zeros(3)
        self.taken = self.whole_steps = 0
        self.bytes = np.zeros(n)
        self.own_steps = np.zeros(n, dtype=np.int64)
        self.due_count = np.zeros(e, dtype=np.int64)
        self.mixed_count = np.zeros(e, dtype=np.int64)

    def run(self) -> Outcome:
        for peer in range(self.peers):
            self._open(peer, 0, 0.0)
        grain = GRAIN * self._typical_step() if self.peers > EXACT else 0.0
        while bool((self.step[self.alive] < self.end).any()) or not self.alive.any():
            self._advance(grain)
        return self._outcome()

    # -- time -----------------------------------------------------------------------------------------------

    def _typical_step(self) -> float:
        degree = np.bincount(self.target, minlength=self.peers)
        seconds = degree * self.load.change_bytes * FRAMING / np.minimum(self.up, self.down)
        return float(np.median(self.compute) + np.median(seconds))

    def _advance(self, grain: float) -> None:
        """To the next event, or all those of the next moment."""
        flowing = np.flatnonzero(
            (self.left > 0) & (self.made <= self.step[self.target]) & self.alive[self.target]
        )
        rates = fair_rates(self.source[flowing], self.target[flowing], self.up, self.down)
        ends = self.now + self.left[flowing] / np.maximum(rates, 1e-9)
        computing = np.where(self.mixing | ~self.alive, np.inf, self.half)
        events = (ends, self.arrives, computing, self.limit, self.returns)
        until = min(float(times.min(initial=np.inf)) for times in events) + grain
        self.left[flowing] = np.maximum(self.left[flowing] - rates * (until - self.now), 0.0)
        done = ends <= until
        self.now = until
        self._on_line(flowing[done], ends[done])
        self._arrive(np.flatnonzero(self.arrives <= until))
        for peer in np.flatnonzero(computing <= until):
            self._half_done(int(peer))
        self._go_on()
        for peer in np.flatnonzero(self.returns <= until):
            self._come_back(int(peer))

    def _on_line(self, edges: Integers, ends: Floats) -> None:
        self.left[edges] = 0.0
        self.sent[edges] = ends
        self.whole[edges] = True
        early = edges[np.isfinite(self.arrives[edges])]
        self._arrive(early)
        self.arrives[edges] = ends + self.delay[edges]

    def _arrive(self, edges: Integers) -> None:
        at = self.arrives[edges]
        self.arrives[edges] = np.inf
        to = self.target[edges]
        present = self.made[edges] == self.step[to]
        self.arrived[edges[present]] = at[present]
        begins = np.maximum(self.started[edges] + self.delay[edges], self.begun[to])
        self.opened[edges[present]] = begins[present]
        for edge, peer, when, fits in zip(
            edges.tolist(), to.tolist(), at.tolist(), present.tolist(), strict=True
        ):
            if fits and self.mixing[peer]:
                self._note(edge, peer, when - self.half[peer])
            elif self.made[edge] == self.step[peer] - 1 and np.isfinite(self.past_half[peer]):
                self._note(edge, peer, when - self.past_half[peer])

    def _note(self, edge: int, peer: int, seconds: float) -> None:
        sender = int(self.source[edge])
        self.pace[peer].arrived(str(sender), seconds, self.took[sender] / max(self.took[peer], 1e-6))

    # -- one peer's step ------------------------------------------------------------------------------------

    def _inward(self, peer: int) -> slice:
        return slice(self.bounds[peer], self.bounds[peer + 1])

    def _open(self, peer: int, step: int, at: float) -> None:
        """A step begins at ``at``, with the neighbours that are thought to be there."""
        inward = self._inward(peer)
        near = self.source[inward]
        self.step[peer], self.begun[peer] = step, at
        self.took[peer] = self.compute[peer] * self.load.jitter.draw(1, self.chance)[0]
        self.past_half[peer], self.half[peer] = self.half[peer], at + self.took[peer]
        self.mixing[peer], self.limit[peer] = False, np.inf
        here = self.alive[near] | (at - self.silent[near] < SUSPECT_FLOOR_S)
        # Who returned and is at this step already has not been sent for by those who began it before.
        self.due[inward] = here & ((self.step[near] != step) | self.due[self.back[inward]] | (step == 0))
        pace = self.pace[peer]
        self.slow[inward] = [pace.slow(str(other)) for other in near.tolist()]
        self.lost[inward] = self.made[inward] > step
        self.arrived[inward] = self.opened[inward] = np.inf
        if step >= self.first and np.isnan(self.opened_first[peer]):
            self.opened_first[peer], self.steps_first[peer] = at, step
        if step <= self.end:
            self.opened_last[peer], self.steps_last[peer] = at, step

    def _half_done(self, peer: int) -> None:
        inward = self._inward(peer)
        self.mixing[peer] = True
        half = float(self.half[peer])
        for edge in range(inward.start, inward.stop):
            if np.isfinite(self.arrived[edge]):
                self._note(edge, peer, float(self.arrived[edge]) - half)
        self.limit[peer] = half + self.pace[peer].deadline(BLOCK, float(self.took[peer]))
        out = self.back[inward][self.due[inward]]
        full = ~self.whole[out] | (self.step[peer] % self.load.inner_steps == 0)
        self._arrive(out[np.isfinite(self.arrives[out])])
        self.made[out], self.started[out], self.sent[out] = self.step[peer], half, np.inf
        self.size[out] = np.where(full, self.load.full_bytes, self.load.change_bytes) * FRAMING
        self.left[out] = self.size[out]
        self.whole[out] = False
        ahead = out[self.made[out] > self.step[self.target[out]]]
        self.lost[ahead] = True

    def _heard(self, edges: slice) -> Floats:
        """When the messages for the receiver's step began to come; infinity: they did not."""
        to = self.target[edges]
        begins = np.maximum(self.started[edges] + self.delay[edges], self.begun[to])
        under_way = (self.made[edges] == self.step[to]) & (begins <= self.now)
        return np.where(under_way, begins, self.opened[edges])

    def _go_on(self) -> None:
        """End the steps that wait for nobody any more, or no longer."""
        to = self.target
        unheard = self.slow & ~np.isfinite(self._heard(slice(None)))
        done = self.lost | (np.isfinite(self.sent[self.back]) & (unheard | np.isfinite(self.arrived)))
        owed = np.bincount(to[self.due & ~done], minlength=self.peers)
        over = self.mixing & ((owed == 0) | (self.limit <= self.now))
        for peer in np.flatnonzero(over):
            self._end(int(peer), late=bool(owed[peer]))

    def _end(self, peer: int, late: bool) -> None:
        inward = self._inward(peer)
        due, out, half = self.due[inward], self.back[inward], float(self.half[peer])
        heard, arrived = self._heard(inward)[due], self.arrived[inward][due]
        came, sent = np.isfinite(arrived), self.sent[out][due]
        over = float(self.limit[peer])
        if not late:
            events = np.concatenate([arrived[came], sent[np.isfinite(sent)], [half]])
            over = min(over, float(events.max())) if not self.lost[inward][due].any() else min(over, self.now)
        began = max(half, float(heard[np.isfinite(heard)].max(initial=half)))
        if bool(np.isfinite(heard).all()):
            self.pace[peer].stepped(BLOCK, float(self.took[peer]) + over - began)
        sent_bytes = float((self.size[out] - self.left[out])[due].sum()) / FRAMING
        self.left[out] = 0.0
        if self.first <= self.step[peer] < self.end:
            self.parts += self.took[peer], began - half, over - began
            self.taken += 1
            self.bytes[peer] += sent_bytes
            self.own_steps[peer] += 1
            self.whole_steps += bool(came.all())
            self.due_count[inward] += due
            self.mixed_count[inward] += due & np.isfinite(self.arrived[inward])
        self._next(peer, over)

    def _next(self, peer: int, at: float) -> None:
        near = self.source[self._inward(peer)]
        near = near[self.alive[near]]
        step = int(self.step[peer]) + 1
        furthest = int(self.step[near].max(initial=0))
        if self.load.failures and self.chance.random() < self.load.failures:
            self._fail(peer, at)
        else:
            self._open(peer, max(step, furthest) if furthest > step + 1 else step, at)

    def _fail(self, peer: int, at: float) -> None:
        self.alive[peer], self.mixing[peer] = False, False
        self.silent[peer], self.limit[peer] = at, np.inf
        self.returns[peer] = at + self.load.outage.draw(1, self.chance)[0]

    def _come_back(self, peer: int) -> None:
        at = float(self.returns[peer])
        near = self.source[self._inward(peer)]
        self.alive[peer], self.returns[peer] = True, np.inf
        self.pace[peer] = Pace()
        self.half[peer] = np.nan
        self._open(
            peer, max(int(self.step[peer]) + 1, int(self.step[near[self.alive[near]]].max(initial=0))), at
        )

    # -- the end --------------------------------------------------------------------------------------------

    def _outcome(self) -> Outcome:
        advanced = np.maximum(self.steps_last - self.steps_first, 0)
        moved = advanced > 0
        share = self.mixed_count.sum() / max(self.due_count.sum(), 1)
        # A few steps say little of one edge: each counts once more, with the share of all.
        mixed = (self.mixed_count + share) / (self.due_count + 1)
        compute, waiting, network = self.parts / max(self.taken, 1)
        return Outcome(
            step_s=(self.opened_last - self.opened_first)[moved] / advanced[moved],
            compute_s=float(compute),
            waiting_s=float(waiting),
            network_s=float(network),
            bytes_sent=self.bytes / np.maximum(self.own_steps, 1),
            complete=self.whole_steps / max(self.taken, 1),
            mixed=float(share),
            contraction=second_modulus(self.source, self.target, self.weight * mixed, self.peers),
        )
