"""Peers on lines of limited bandwidth, what they send, and what a simulation of it tells (`decad.lab.fluid`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from decad.lab.distributions import Distribution, Floats
from decad.lab.sharing import Integers

ALWAYS = Distribution("constant", (1.0,))


@dataclass(frozen=True)
class Network:
    """Peers 0 .. N-1 and their lines. Arrays are fp64 [N] unless said; an edge is there in both directions."""

    overlay: str
    source: Integers
    """[edges]: who sends."""
    target: Integers
    """[edges]: who receives."""
    delay: Floats
    """[edges]: seconds that a byte is under way, the same both ways."""
    compute: Floats
    """Seconds of a half-step."""
    uplink: Floats
    """Bytes a second."""
    downlink: Floats
    """Bytes a second."""

    @property
    def peers(self) -> int:
        return len(self.compute)


@dataclass(frozen=True)
class Load:
    """What is sent over it, and what goes wrong."""

    full_bytes: float
    """Of a message that stands for itself."""
    change_bytes: float
    """Of one that builds on the one before; with fp32 the same."""
    inner_steps: int
    """R: a phase begins with a message in full."""
    jitter: Distribution = ALWAYS
    """Of each half-step's time, times the peer's own."""
    failures: float = 0.0
    """Probability that a peer falls silent at the beginning of a step."""
    outage: Distribution = ALWAYS
    """Seconds until it is back."""


@dataclass(frozen=True)
class Outcome:
    """Of the steps after the first ones, in which deadlines are learnt."""

    step_s: Floats
    """[peers]: seconds that a peer needs for the run to advance by a step."""
    compute_s: float
    """Mean of a step: its half-step."""
    waiting_s: float
    """From then on until the last neighbour's message began: somebody else's computation."""
    network_s: float
    """The rest of it."""
    bytes_sent: Floats
    """[peers]: of messages, a step."""
    complete: float
    """Share of the steps in which nobody was missing."""
    mixed: float
    """Share of the edges, each direction by itself, over which a step's block came and was mixed."""
    contraction: float
    """Second largest modulus among the eigenvalues of the mean mixing matrix of these steps."""

    @property
    def halving_steps(self) -> float:
        """Steps until the distance between the peers' copies halves, if nobody trained; infinity for never."""
        if self.contraction >= 1:
            return float(np.inf)
        return max(1.0, float(np.log(0.5) / np.log(max(self.contraction, 1e-300))))


def join(
    graph: Mapping[str, frozenset[str]],
    overlay: str,
    latency: Distribution,
    chance: np.random.Generator,
    *,
    compute: Floats,
    uplink: Floats,
    downlink: Floats,
) -> Network:
    """The peers of ``graph`` (id -> neighbours), numbered in its order; ``latency``: seconds, drawn for each edge."""
    number = {peer: place for place, peer in enumerate(graph)}
    pairs = [(number[a], number[b]) for a, near in graph.items() for b in near if a < b]
    one, other = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    delay = latency.draw(len(pairs), chance)
    both = np.concatenate([one, other]), np.concatenate([other, one]), np.concatenate([delay, delay])
    return Network(overlay, *both, compute, uplink, downlink)
