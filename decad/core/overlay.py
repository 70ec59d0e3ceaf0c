"""Who mixes with whom, and with what weight: pure functions of the sorted peer ids, so nobody elects anybody.

Metropolis-Hastings weights are symmetric and their matrix W is doubly stochastic, so mixing keeps the network
average (DECA section 3). The 1.25 of `edge_weight` holds the largest eigenvalue of I - W at 1.6, below the
1.617 at which the moment recursion behind the consensus signal becomes unstable for b1 = 0.5 (docs/theory.md, T4).

random:K is the union of K rings, each through all peers in the order of a hash of ring and id. Each ring alone
connects everybody; nobody has more than 2K neighbours; a join or leave changes at most 3K edges. Measured (20 sets of
ids up to 128 peers, then fewer): for K = 3 the second eigenvalue modulus of W is 0.74 with 32 peers, 0.78 with 128,
0.79 with 1000. Why this and not rendezvous hashing: docs/adr/0012-random-overlays-are-rings-in-hashed-order.md.

erdos:P is for comparing with what is published: each pair is an edge with the probability P, decided
by a hash of both ids. What is left unconnected by chance is joined into a line, from the lowest id of a piece to the
lowest of the next. A daemon computes all pairs, and its neighbours grow with the peers: random:K is for use.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import combinations, pairwise, product
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from decad.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

NO_NAMES: Mapping[str, str] = MappingProxyType({})

MOST_NEIGHBOURS = 64
"""For so many a daemon has room (decad.wire): of more, `full` is no longer a sensible overlay."""
MOST_RINGS = MOST_NEIGHBOURS // 2
"""Of random:K, which gives two neighbours a ring."""


class Overlay(NamedTuple):
    """An overlay's text, taken apart."""

    kind: str
    """full | ring | line | exponential | random | erdos | edges."""
    rings: int = 1
    """K of random:K."""
    density: float = 0.0
    """P of erdos:P."""
    edges: tuple[tuple[str, str], ...] = ()
    """Of edges:A-B,C-D: both ends of each, names or prefixes of ids."""


@lru_cache(maxsize=64)
def parse_overlay(text: str) -> Overlay:
    """Raises ConfigError, a message without a subject, for what is no overlay."""
    if text in ("full", "ring", "line", "exponential"):
        return Overlay(text)
    kind, _, rest = text.partition(":")
    if kind == "random" and re.fullmatch(r"[1-9][0-9]?", rest) and int(rest) <= MOST_RINGS:
        return Overlay(kind, rings=int(rest))
    if kind == "erdos" and re.fullmatch(r"0?\.[0-9]{1,6}", rest) and float(rest) > 0:
        return Overlay(kind, density=float(rest))
    edges = [re.fullmatch(r"([\w.]+)-([\w.]+)", edge) for edge in rest.split(",")]
    if kind == "edges" and all(edges):
        return Overlay(kind, edges=tuple((edge[1], edge[2]) for edge in edges if edge))
    raise ConfigError(
        f"write full, ring, line, exponential, random:K (K from 1 to {MOST_RINGS}), erdos:P (P between 0 and 1, as in "
        "erdos:0.5) or edges:A-B,B-C (peer names or id prefixes)"
    )


def neighbours(
    overlay: str, members: Collection[str], me: str, names: Mapping[str, str] = NO_NAMES
) -> frozenset[str]:
    """Ids of the peers that ``me`` mixes with; the relation is symmetric for equal ``members`` and ``names``.

    ``overlay``: full | ring | line (a ring that is open between the highest id and the lowest) | exponential
    (i +- 2^k over the sorted ids, for hops up to half the ring) | random:K (K rings in hashed orders) | erdos:P
    (each pair with the probability P, pieces joined) | edges:A-B,C-D, each end a peer's name or else a prefix of
    ids. An end that nobody answers to gives no edge; one that several answer to gives an edge to each. ``names``:
    id -> name.
    Raises ConfigError for an overlay that is none of these.
    """
    parsed, everybody = parse_overlay(overlay), frozenset(members) | {me}
    if parsed.kind == "full":
        return everybody - {me}
    if parsed.kind == "edges":
        listed = _listed(parsed, everybody, names)
        return frozenset(theirs for mine, theirs in listed if mine == me) - {me}
    if parsed.kind == "erdos":
        return _erdos(parsed.density, everybody)[me]
    found = (ring.beside(ring.order.index(me)) for ring in _rings(parsed, everybody))
    return frozenset().union(*found) - {me}


def graph(
    overlay: str, members: Collection[str], names: Mapping[str, str] = NO_NAMES
) -> dict[str, frozenset[str]]:
    """`neighbours` of all ``members``, in the order of ids, and much faster than one by one."""
    parsed, ids = parse_overlay(overlay), sorted(members)
    if parsed.kind == "full":
        return {me: frozenset(ids) - {me} for me in ids}
    if parsed.kind == "erdos":
        return dict(_erdos(parsed.density, frozenset(ids)))
    found = defaultdict[str, set[str]](set)
    if parsed.kind == "edges":
        for mine, theirs in _listed(parsed, ids, names):
            found[mine].add(theirs)
    else:
        for ring in _rings(parsed, ids):
            for place, me in enumerate(ring.order):
                found[me] |= ring.beside(place)
    return {me: frozenset(found[me] - {me}) for me in ids}


def edge_weight(overlay: str, degree_i: int, degree_j: int) -> float:
    """w_ij of an edge between peers that count ``degree_i`` and ``degree_j`` neighbours."""
    degree = max(degree_i, degree_j)
    return 1 / (1 + degree) if overlay == "full" else 1 / max(1 + degree, 1.25 * degree)


def mixing_matrix(overlay: str, members: Collection[str], names: Mapping[str, str] = NO_NAMES) -> Tensor:
    """W, fp64 [N, N], rows and columns in the order of the sorted ids; w_ii is what the row's edges leave."""
    import torch  # here, since config checks overlays with this module, and `decad status` never loads torch

    edges = graph(overlay, members, names)
    row = {peer: index for index, peer in enumerate(edges)}
    weights = torch.zeros(len(edges), len(edges), dtype=torch.float64)
    for i, near in edges.items():
        for j in near:
            weights[row[i], row[j]] = edge_weight(overlay, len(near), len(edges[j]))
    return weights + torch.diag(1 - weights.sum(dim=1))


class _Ring(NamedTuple):
    order: Sequence[str]
    hops: Sequence[int]
    closed: bool

    def beside(self, place: int) -> set[str]:
        """Who is a hop away from this place, either way."""
        places = [place + way * hop for hop in self.hops for way in (1, -1)]
        size = len(self.order)
        return {self.order[there % size] for there in places if self.closed or 0 <= there < size}


def _rings(overlay: Overlay, peers: Collection[str]) -> Iterator[_Ring]:
    ids = sorted(peers)
    if overlay.kind == "random":
        for number in range(overlay.rings):
            yield _Ring(sorted(ids, key=lambda peer: (_hashed(number, peer), peer)), [1], closed=True)
    else:
        longest = len(ids) // 2 if overlay.kind == "exponential" else 1
        hops = [1 << k for k in range(longest.bit_length())]
        yield _Ring(ids, hops, closed=overlay.kind != "line")


@lru_cache(maxsize=8)
def _erdos(density: float, peers: frozenset[str]) -> Mapping[str, frozenset[str]]:
    """In the order of ids."""
    ids = sorted(peers)
    near: dict[str, set[str]] = {me: set() for me in ids}
    least = int(density * (1 << 64)).to_bytes(8, "big")
    edges = [pair for pair in combinations(ids, 2) if _hashed(*pair) < least]
    for one, other in [*edges, *pairwise(_lowest_of_pieces(ids, edges))]:
        near[one].add(other)
        near[other].add(one)
    return MappingProxyType({me: frozenset(found) for me, found in near.items()})


def _lowest_of_pieces(ids: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[str]:
    """Of each connected piece of the graph its lowest id, in order. ``edges``: each as (lower, higher)."""
    above = {me: me for me in ids}

    def lowest(me: str) -> str:
        while above[me] != me:
            above[me] = me = above[above[me]]
        return me

    for one, other in edges:
        low, high = sorted((lowest(one), lowest(other)))
        above[high] = low
    return [me for me in ids if above[me] == me]


@lru_cache(maxsize=1 << 16)
def _hashed(ring: int | str, peer: str) -> bytes:
    """``ring``: of random:K; of erdos:P the lower id of a pair."""
    return blake2b(f"{ring}/{peer}".encode(), digest_size=8).digest()


def _listed(
    overlay: Overlay, members: Collection[str], names: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Each edge both ways."""
    for left, right in overlay.edges:
        for one, other in product(_answering(left, members, names), _answering(right, members, names)):
            yield one, other
            yield other, one


def _answering(end: str, members: Collection[str], names: Mapping[str, str]) -> set[str]:
    named = {peer for peer in members if names.get(peer) == end}
    return named or {peer for peer in members if peer.startswith(end)}
