"""Which addresses to dial, and when.

Pure: addresses and results in, addresses to dial out; time is an argument (seconds, monotonic), chance a
seeded generator. An address is dialled again and again, ever more slowly, while nobody is linked through
it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from decad.config import split_address
from decad.core.constants import MAX_LEARNT
from decad.membership.table import Origin

FIRST_DELAY_S = 0.5
"""Seconds until an address is dialled again after its first failure; each further one doubles it."""

LAST_DELAY_S = 10.0
"""The delay grows no further: after a split, peers find each other again within this time."""

MYSELF_DELAY_S = 60.0
"""The delay for a number that was this peer's own."""

DIALS_AT_ONCE = 16
"""Dials under way together: a list of a thousand dead addresses must not take all the sockets."""

UNPROVEN_AT_ONCE = 4
"""Of them, dials of addresses that others named and where nobody was met yet: anybody can name any address."""

UNPROVEN_LAST_DELAY_S = 300.0
"""To where the delay grows for such an address."""

REPLACED_AT_ONCE = 16
"""Learnt addresses that give way to others at one time, when there are as many as may be."""

FORGET_UNREACHED_S = 600.0
"""Seconds of failures after which an address learnt from others, where nobody was ever reached, is
forgotten."""

FORGET_REACHED_S = 86_400.0
"""The same for an address where a peer was reached once: both halves of a split must outlast a night."""


@dataclass
class Address:
    """One known address. Read by everybody, written by the plan alone."""

    address: str
    """host:port."""
    found: Origin
    peer: str | None = None
    """Id of the peer there: proven if it was reached, else claimed by whoever told of it."""
    reached: bool = False
    dialling: bool = False
    failures: int = 0
    """In a row."""
    reason: str = ""
    """Of the last failure."""
    myself: bool = False
    announced: bool = False
    """mDNS still says that it is there."""
    next_dial: float = 0.0
    last_dial: float = float("-inf")
    failing_since: float | None = None

    @property
    def unproven(self) -> bool:
        """Whether somebody else named it, and nobody was met there yet."""
        return self.found != "peers" and not self.reached


class DialPlan:
    """All known addresses of other peers. Every address that `due` returns is reported back exactly once."""

    def __init__(self, me: str, random: Random) -> None:
        self._me = me
        self._random = random
        self._known: dict[str, Address] = {}
        self._replaced_at, self._replaced = float("-inf"), 0

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Every known address, in the order in which they were learnt."""
        return tuple(self._known.values())

    def add(self, address: str, found: Origin, now: float, peer: str | None = None) -> None:
        """Somebody may be reached at ``address`` (host:port); ``peer`` is the id that was claimed with it,
        or for mDNS, which tells no ids, whatever all addresses of one announcement have in common.

        Raises ValueError when it is not an address. Hearing of it again by mDNS makes it due at once.
        """
        split_address(address)
        if peer == self._me:
            return
        entry = self._known.get(address)
        if entry is None:
            if found != "peers" and not self._room(now):
                return
            entry = self._known[address] = Address(address, found, next_dial=now)
        if found == "peers":
            entry.found = found
        elif entry.found != "peers" and not entry.reached:
            entry.found, entry.peer = found, peer
        if found == "mdns":
            entry.announced = True
            # Whoever sends announcements without end makes us dial no oftener than we would an address that we trust.
            entry.next_dial = min(entry.next_dial, max(now, entry.last_dial + LAST_DELAY_S))

    def remember(self, address: str, peer: str, now: float) -> None:
        """``peer`` was met at ``address`` before this daemon started, which is no longer than a night's outage ago."""
        self.add(address, "exchange", now, peer)
        if (entry := self._known.get(address)) is not None and entry.found != "peers":
            entry.reached = True

    def withdrawn(self, addresses: Collection[str]) -> None:
        """mDNS says that nobody is there any longer: these addresses are forgotten like any other."""
        for address in addresses:
            if address in self._known:
                self._known[address].announced = False

    def due(self, connected: Collection[str], now: float) -> list[str]:
        """Addresses to dial now, the operator's first; each counts as being dialled until its result comes.

        Left out are those of ``connected`` peers and, if a peer has several addresses, all but one at a time.
        """
        self._forget(now)
        busy = {entry.peer for entry in self._known.values() if entry.dialling and entry.peer}
        room = DIALS_AT_ONCE - sum(entry.dialling for entry in self._known.values())
        room_for_unproven = UNPROVEN_AT_ONCE - sum(e.dialling and e.unproven for e in self._known.values())
        chosen: list[str] = []
        for entry in sorted(self._known.values(), key=lambda e: (e.found != "peers", e.next_dial)):
            if entry.dialling or entry.next_dial > now or len(chosen) >= room:
                continue
            if entry.peer is not None and (entry.peer in connected or entry.peer in busy):
                continue
            if entry.unproven:
                if room_for_unproven <= 0:
                    continue
                room_for_unproven -= 1
            if entry.peer is not None:
                busy.add(entry.peer)
            entry.dialling, entry.last_dial = True, now
            chosen.append(entry.address)
        return chosen

    def reached(self, address: str, peer: str, now: float) -> None:
        """``peer`` answered there and proved its id, though the link may have been a duplicate and is
        closed."""
        if entry := self._ended(address):
            entry.peer, entry.reached, entry.myself = peer, True, False
            entry.failures, entry.reason, entry.failing_since = 0, "", None
            entry.next_dial = now + self._delay(1)

    def failed(self, address: str, reason: str, now: float) -> None:
        """Nobody answered, or whoever did was refused or refused us."""
        if entry := self._ended(address):
            entry.failures += 1
            entry.reason, entry.myself = reason, False
            if entry.failing_since is None:
                entry.failing_since = now
            last = UNPROVEN_LAST_DELAY_S if entry.unproven else LAST_DELAY_S
            entry.next_dial = now + self._delay(entry.failures, last)

    def was_myself(self, address: str, now: float) -> None:
        """We reached ourselves. A name may lead to another peer the next time, and so may a number, which another
        machine gets when this one is given a new address."""
        if entry := self._ended(address):
            entry.peer = None
            entry.reason = "it is this peer's own address"
            entry.myself = True
            entry.next_dial = now + (MYSELF_DELAY_S if _is_number(address) else LAST_DELAY_S)

    def _ended(self, address: str) -> Address | None:
        entry = self._known.get(address)
        if entry is not None:
            entry.dialling = False
        return entry

    def _delay(self, failures: int, last: float = LAST_DELAY_S) -> float:
        # Up to half is left to chance, so that peers that failed together do not come back together.
        whole = min(FIRST_DELAY_S * 2.0 ** min(failures - 1, 32), last)
        return whole * self._random.uniform(0.5, 1.0)

    def _forget(self, now: float) -> None:
        for entry in self.addresses:
            if entry.found == "peers" or entry.announced or entry.dialling or entry.failing_since is None:
                continue
            limit = FORGET_REACHED_S if entry.reached else FORGET_UNREACHED_S
            if now - entry.failing_since >= limit:
                del self._known[entry.address]

    def _room(self, now: float) -> bool:
        """Whether one more learnt address fits, if need be in the place of the one that failed most."""
        # Looking at all of them for each of a long list would take the loop's time: one list replaces a few.
        if len(self._known) < MAX_LEARNT:
            return True
        if now != self._replaced_at:
            self._replaced_at, self._replaced = now, 0
        self._replaced += 1
        if self._replaced > REPLACED_AT_ONCE:
            return False
        learnt = [entry for entry in self._known.values() if entry.found != "peers"]
        if len(learnt) < MAX_LEARNT:
            return True
        worst = max(learnt, key=lambda e: 0 if e.dialling else e.failures)
        if worst.dialling or not worst.failures:
            return False
        del self._known[worst.address]
        return True


def _is_number(address: str) -> bool:
    try:
        ipaddress.ip_address(split_address(address)[0])
    except ValueError:
        return False
    return True
