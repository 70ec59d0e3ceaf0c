"""What a peer may send, all in one place: whatever exceeds it ends the link before memory or time is spent on it.

docs/protocol.md prints this table. Sizes are of one message in bytes, rates in messages a second.
"""

from __future__ import annotations

from typing import NamedTuple

from decad.core.constants import MAX_LEARNT, MAX_STEP

MAX_MESSAGE_BYTES = 4 << 20
MAX_CONTROL_BYTES = 1 << 19
MAX_HEADER_BYTES = 4096
MAX_FETCH_BYTES = 1 << 20
MAX_CHUNK_FIELDS = 16
MAX_VIEW = 1024
MAX_VERDICTS = 1024
MAX_REFUSAL_FIELDS = 32
MOST_HALF_OPEN = 32
MOST_LINKS_OF_ONE = 4
"""Both ends dial, and old links take a moment to end."""
SERVED_AT_ONCE = 4
"""Copies of blocks that a donor holds: each is as large as a block."""


class Rate(NamedTuple):
    """At most ``burst`` at once and ``per_s`` a second in the long run."""

    per_s: float
    burst: int


RATES = {
    "beacon": Rate(60, 256),
    "view": Rate(20, 512),
    "ask": Rate(10, 64),
    "verdicts": Rate(5, 64),
    "duplicate_identity": Rate(1, 8),
}
"""Of control messages by kind. A beacon goes out every 50 ms at most; what waited in a slow line comes at once."""

TABLE = (
    (
        "any message",
        f"{MAX_MESSAGE_BYTES:,} bytes",
        "the largest chunk, a full resend of bf16-delta, has 2 MiB",
    ),
    ("a control message", f"{MAX_CONTROL_BYTES:,} bytes", "a Hello with the longest run spec fits"),
    ("a block header", f"{MAX_HEADER_BYTES:,} bytes", "it has about 60"),
    (
        "a fetch message that is no chunk",
        f"{MAX_FETCH_BYTES:,} bytes",
        "hashes of a block of 8 billion values",
    ),
    ("fields of a chunk", f"{MAX_CHUNK_FIELDS}", "it has three"),
    ("a step, wherever it is told", f"{MAX_STEP:,}", "2^53"),
    ("members of a view", f"{MAX_VIEW:,}", ""),
    ("verdicts", f"{MAX_VERDICTS:,}", "in one message, and kept"),
    ("accepted links whose handshake is not done", f"{MOST_HALF_OPEN}", "then the oldest has to go"),
    ("accepted links of one proved identity", f"{MOST_LINKS_OF_ONE}", ""),
    ("blocks given to joiners at once", f"{SERVED_AT_ONCE}", "of all links; more joiners wait"),
    ("addresses learnt from others", f"{MAX_LEARNT:,}", "kept in all"),
    *(
        (f"{kind} messages", f"{rate.per_s:g} a second", f"{rate.burst} at once")
        for kind, rate in RATES.items()
    ),
)
"""What is bounded, by how much, and what else there is to say."""


class RateMeter:
    """A token bucket: whether one more message is within a rate."""

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate, self._tokens, self._at = rate, float(rate.burst), now

    def take(self, now: float) -> bool:
        """One more, at ``now`` in seconds."""
        self._tokens = min(self._rate.burst, self._tokens + (now - self._at) * self._rate.per_s)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
