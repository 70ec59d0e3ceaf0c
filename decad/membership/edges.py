"""Who mixes with whom in a step.

The overlay is a function of the sorted ids of the members, so nobody elects anybody. While peers come and
go their views differ for a moment: an edge exists when both ends' views have it, so that no peer waits for
another that does not wait for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from decad.core.overlay import neighbours


def mixing_edges(
    me: str,
    overlay: str,
    names: Mapping[str, str],
    mine: Collection[str],
    views: Mapping[str, Collection[str]],
) -> frozenset[str]:
    """The peers that I share an edge of the overlay with.

    ``names``: id -> name, for overlays that list their edges; ``mine``: my view, the ids that I have a
    working link to and that are training; ``views``: the last view that each peer sent, without itself
    (none yet: no edge). Two peers that know each other's view come to the same answer. Raises ConfigError
    if the overlay is malformed.
    """
    here = neighbours(overlay, {*mine, me}, me, names)
    return frozenset(
        other
        for other in here
        if me in views.get(other, ()) and me in neighbours(overlay, {*views[other], other}, other, names)
    )
