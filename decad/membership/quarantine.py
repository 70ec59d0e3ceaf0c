"""How long a peer that did something wrong is kept away: longer each time, and forgotten after it behaved.

Pure: time is an argument, in seconds. Only for peers whose ids are proved: else anybody could have another kept away.
"""

from __future__ import annotations

from typing import NamedTuple

FIRST_PAUSE_S = 10.0
"""After the first offence; each further one doubles it."""
LONGEST_PAUSE_S = 3600.0
FORGIVEN_S = 3600.0
"""Without an offence for so long after a pause, the next is a first one again."""
KEPT = 1024
"""Offenders that are remembered: whoever has the secret can make identities without end."""


class _Record(NamedTuple):
    reason: str
    until: float
    pause: float


class Quarantine:
    """Of one peer."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def offended(self, peer: str, reason: str, now: float) -> float:
        """``peer`` did what ``reason`` says; returns for how many seconds it is kept away."""
        before = self._records.pop(peer, None)
        known = before is not None and now < before.until + FORGIVEN_S
        pause = min(2 * before.pause, LONGEST_PAUSE_S) if before is not None and known else FIRST_PAUSE_S
        self._records[peer] = _Record(reason, now + pause, pause)
        if len(self._records) > KEPT:
            del self._records[next(iter(self._records))]
        return pause

    def objection(self, peer: str, now: float) -> str:
        """Why ``peer`` is kept away, as the end of a sentence; empty if it is not."""
        record = self._records.get(peer)
        if record is None or now >= record.until:
            return ""
        return f"it is kept away for another {record.until - now:.0f} s, since {record.reason}"
