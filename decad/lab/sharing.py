"""Who gets how much of the lines: max-min fair rates, which many TCP streams through full lines come near to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decad.lab.distributions import Floats

Integers = NDArray[np.int64]

PASSES = 30
"""After so many, what is left gets the fair share as it stands: that is less than its due, never more than fits."""


def fair_rates(source: Integers, target: Integers, uplink: Floats, downlink: Floats) -> Floats:
    """Bytes a second of each stream, fp64 [streams].

    ``source``, ``target`` [streams]: peers; ``uplink``, ``downlink`` [peers], bytes a second. No stream can get more
    without taking it from one that has no more: lines whose fair share nobody is kept from by another line are settled
    first, all of them at once, then the rest share what is left.
    """
    peers = len(uplink)
    room = np.concatenate([uplink, downlink])
    up, down = source, target + peers
    rates = np.zeros(len(source))
    left = np.arange(len(source))
    for last in range(PASSES, 0, -1):
        streams = np.bincount(up[left], minlength=2 * peers) + np.bincount(down[left], minlength=2 * peers)
        share = np.maximum(room, 0.0) / np.maximum(streams, 1)
        mine, theirs = share[up[left]], share[down[left]]
        rate = np.minimum(mine, theirs)
        # A line is settled if each of its streams gets this line's fair share.
        unsettled = np.zeros(2 * peers, dtype=bool)
        unsettled[up[left][mine > rate]] = True
        unsettled[down[left][theirs > rate]] = True
        settled = (
            ~(unsettled[up[left]] & unsettled[down[left]]) if last > 1 else np.ones(len(left), dtype=bool)
        )
        chosen = left[settled]
        rates[chosen] = rate[settled]
        left = left[~settled]
        if not len(left):
            break
        room -= np.bincount(up[chosen], rates[chosen], 2 * peers) + np.bincount(
            down[chosen], rates[chosen], 2 * peers
        )
    return rates
