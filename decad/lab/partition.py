"""Who gets which data: from alike to as different as can be. Pure functions of labels and seed, on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from decad.core.keyed import keyed_bits
from decad.errors import ConfigError

Rows = NDArray[np.int64]

LEAST = 2
"""Units that a peer needs: one to train on, one to evaluate on."""


def partition(kind: str, labels: NDArray[np.int64], peers: int, seed: int) -> list[Rows]:
    """Numbers of the units of each peer, ascending; each unit belongs to one peer.

    ``labels``: domain or class of each unit, from 0. ``kind``:

    - ``domain``: what has label l goes to the peers i with i mod L = l, in equal pieces, each a stretch of its own; of
      fewer peers than labels some get several
    - ``dirichlet:ALPHA``: of each label the peers get shares drawn from Dirichlet(alpha), the lower the more unequal
      (Hsu, Qi, Brown 2019, arXiv 1909.06335)
    - ``quantity:ALPHA``: labels alike, sizes drawn from Dirichlet(alpha)
    - ``iid``: labels and sizes alike

    A peer with fewer than `LEAST` units takes them from the one that has the most. Raises ConfigError.
    """
    name, _, text = kind.partition(":")
    # numpy keeps what RandomState draws as it is for good (NEP 19); of its newer Generator it does not say so.
    random = np.random.RandomState(keyed_bits("partition", kind, seed))
    if len(labels) < LEAST * peers:
        raise ConfigError(
            f"{len(labels)} sequences or examples are too few for {peers} peers. Use more data, fewer peers or a "
            "shorter seq_len."
        )
    if kind == "domain":
        parts = _by_label(labels, peers)
    elif kind == "iid":
        parts = np.array_split(random.permutation(len(labels)), peers)
    elif name == "dirichlet":
        parts = _dirichlet(labels, peers, _alpha(kind, text), random)
    elif name == "quantity":
        sizes = random.dirichlet([_alpha(kind, text)] * peers)
        parts = _cut(random.permutation(len(labels)), sizes)
    else:
        raise ConfigError(
            f"partition {kind!r} is not known. Use domain, dirichlet:ALPHA, quantity:ALPHA or iid."
        )
    return [np.sort(part).astype(np.int64) for part in _levelled(parts)]


def _by_label(labels: NDArray[np.int64], peers: int) -> list[Rows]:
    parts: list[list[Rows]] = [[] for _ in range(peers)]
    kinds = np.unique(labels)
    for place, label in enumerate(kinds):
        owners = range(place % peers, peers, len(kinds)) if peers > len(kinds) else [place % peers]
        for owner, stretch in zip(
            owners, np.array_split(np.flatnonzero(labels == label), len(owners)), strict=True
        ):
            parts[owner].append(stretch)
    return [np.concatenate(part) for part in parts]


def _dirichlet(
    labels: NDArray[np.int64], peers: int, alpha: float, random: np.random.RandomState
) -> list[Rows]:
    parts: list[list[Rows]] = [[] for _ in range(peers)]
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        for part, piece in zip(parts, _cut(rows, random.dirichlet([alpha] * peers)), strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def _cut(rows: Rows, shares: NDArray[np.float64]) -> list[Rows]:
    ends = np.floor(np.cumsum(shares)[:-1] * len(rows) + 0.5).astype(np.int64)
    return list(np.split(rows, ends))


def _levelled(parts: Sequence[Rows]) -> list[Rows]:
    level = list(parts)
    for place in range(len(level)):
        while len(level[place]) < LEAST:
            richest = max(range(len(level)), key=lambda other: len(level[other]))
            level[place] = np.append(level[place], level[richest][-1])
            level[richest] = level[richest][:-1]
    return level


def _alpha(kind: str, text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = 0.0
    if not 0.01 <= alpha <= 1e6:
        raise ConfigError(
            f"partition {kind!r}: write a number from 0.01 to 1e6 after the colon, as in dirichlet:0.1."
        )
    return alpha
