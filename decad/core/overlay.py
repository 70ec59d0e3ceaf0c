"""Who mixes with whom, and with what weight: pure functions of the sorted peer ids, so nobody elects anybody.

Metropolis-Hastings weights are symmetric and their matrix W is doubly stochastic, so mixing keeps the network
average (DECA section 3). The 1.25 of `edge_weight` holds the largest eigenvalue of I - W at 1.6, below the
1.617 at which the moment recursion behind the consensus signal becomes unstable for b1 = 0.5 (algorithm.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from decad.errors import ConfigError

NO_NAMES: Mapping[str, str] = MappingProxyType({})


def neighbours(
    overlay: str, members: Collection[str], me: str, names: Mapping[str, str] = NO_NAMES
) -> frozenset[str]:
    """Ids of the peers that ``me`` mixes with; the relation is symmetric for equal ``members`` and ``names``.

    ``overlay``: full | ring | exponential (i +- 2^k over the sorted ids, for hops up to half the ring) |
    edges:A-B,C-D, each end a peer's name or else a prefix of ids. An end that nobody answers to gives no
    edge; one that several answer to gives an edge to each. ``names``: id -> name.
    Raises ConfigError for an overlay that is none of these.
    """
    everybody = frozenset(members) | {me}
    if overlay == "full":
        return everybody - {me}
    if overlay in ("ring", "exponential"):
        ids = sorted(everybody)
        place, longest = ids.index(me), len(ids) // 2 if overlay == "exponential" else 1
        hops = [1 << k for k in range(longest.bit_length())]
        return frozenset(ids[(place + way * hop) % len(ids)] for hop in hops for way in (1, -1)) - {me}
    kind, _, edges = overlay.partition(":")
    if kind != "edges" or not edges:
        raise ConfigError(f"overlay {overlay!r} is not known. Use full, ring, exponential or edges:A-B,B-C.")
    found: set[str] = set()
    for edge in edges.split(","):
        left, _, right = edge.partition("-")
        for mine, theirs in ((left, right), (right, left)):
            if me in _answering(mine, everybody, names):
                found |= _answering(theirs, everybody, names)
    return frozenset(found - {me})


def edge_weight(overlay: str, degree_i: int, degree_j: int) -> float:
    """w_ij of an edge between peers that count ``degree_i`` and ``degree_j`` neighbours."""
    degree = max(degree_i, degree_j)
    return 1 / (1 + degree) if overlay == "full" else 1 / max(1 + degree, 1.25 * degree)


def mixing_matrix(overlay: str, members: Collection[str], names: Mapping[str, str] = NO_NAMES) -> Tensor:
    """W, fp64 [N, N], rows and columns in the order of the sorted ids; w_ii is what the row's edges leave."""
    ids = sorted(members)
    row = {peer: index for index, peer in enumerate(ids)}
    edges = {peer: neighbours(overlay, ids, peer, names) for peer in ids}
    weights = torch.zeros(len(ids), len(ids), dtype=torch.float64)
    for i in ids:
        for j in edges[i]:
            weights[row[i], row[j]] = edge_weight(overlay, len(edges[i]), len(edges[j]))
    return weights + torch.diag(1 - weights.sum(dim=1))


def _answering(end: str, members: Collection[str], names: Mapping[str, str]) -> set[str]:
    named = {peer for peer in members if names.get(peer) == end}
    return named or {peer for peer in members if peer.startswith(end)}
