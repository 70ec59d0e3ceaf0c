"""Who gets which data: from alike to as different as can be. Pure functions of labels and seed, on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from decad.core.keyed import keyed_bits, uint64
from decad.errors import ConfigError

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]

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
    bits = keyed_bits("partition", kind, seed)
    if len(labels) < LEAST * peers:
        raise ConfigError(
            f"{len(labels)} sequences or examples are too few for {peers} peers. Use more data, fewer peers or a "
            "shorter seq_len."
        )
    if kind == "domain":
        parts = _by_label(labels, peers)
    elif kind == "iid":
        parts = np.array_split(_shuffled(bits, np.arange(len(labels))), peers)
    elif name == "dirichlet":
        parts = _dirichlet(labels, peers, _alpha(kind, text), bits)
    elif name == "quantity":
        sizes = _shares(bits, _alpha(kind, text), peers)
        parts = _cut(_shuffled(bits, np.arange(len(labels))), sizes)
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


def _dirichlet(labels: NDArray[np.int64], peers: int, alpha: float, bits: np.random.Philox) -> list[Rows]:
    parts: list[list[Rows]] = [[] for _ in range(peers)]
    for label in np.unique(labels):
        rows = _shuffled(bits, np.flatnonzero(labels == label))
        for part, piece in zip(parts, _cut(rows, _shares(bits, alpha, peers)), strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def _shuffled(bits: np.random.Philox, rows: Rows) -> Rows:
    return rows[np.argsort(uint64(bits, len(rows)), kind="stable")]


def _shares(bits: np.random.Philox, alpha: float, peers: int) -> Floats:
    """Drawn from the symmetric Dirichlet(alpha), fp64 [peers]: Gamma(alpha) variates divided by their sum.

    Each is Gamma(alpha + 1) U^(1 / alpha), the former by Marsaglia and Tsang (2000, doi 10.1145/358407.358414), as
    logarithms: those of a small alpha are too small for a double.
    """
    scale = alpha + 1 - 1 / 3
    logs = np.empty(0)
    while len(logs) < peers:
        normal = np.array([NormalDist().inv_cdf(u) for u in _uniform(bits, peers)])
        cube = (1 + normal / np.sqrt(9 * scale)) ** 3
        with np.errstate(invalid="ignore"):  # of a cube below 0, which is refused as NaN
            bound = normal**2 / 2 + scale * (1 - cube + np.log(cube))
        accepted = np.log(_uniform(bits, peers)) < bound
        logs = np.append(logs, np.log(scale * cube[accepted]))
    logs = logs[:peers] + np.log(_uniform(bits, peers)) / alpha
    weights = np.exp(logs - logs.max())
    shares: Floats = weights / weights.sum()
    return shares


def _uniform(bits: np.random.Philox, count: int) -> Floats:
    """Between 0 and 1 and neither, fp64 [count]."""
    # 52 bits: with 53 the largest would be rounded to 1.
    return ((uint64(bits, count) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _cut(rows: Rows, shares: Floats) -> list[Rows]:
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
    if not 0 < alpha < float("inf"):
        raise ConfigError(f"partition {kind!r}: write a number above 0 after the colon, as in dirichlet:0.1.")
    return alpha
