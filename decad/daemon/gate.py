"""Who may stay: checked when a link comes, and again whenever the secrets or the lists of peers change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from decad.errors import ConfigError, StateError
from decad.membership.quarantine import Quarantine
from decad.trust.protection import Protection, discovery_keys
from decad.trust.roster import Roster, Verdict
from decad.trust.secret import read_secrets
from decad.wire.tls import Proven

LOOK_S = 1.0
"""Between two looks at the files, in seconds."""


class Gate:
    """``domains``: names of the trust domains as they stand; empty where links are not authenticated."""

    def __init__(
        self,
        state_dir: Path,
        protection: Protection,
        domains: Callable[[], frozenset[str]],
        notice: Callable[[str], None],
    ) -> None:
        self._protection, self._domains, self._notice = protection, domains, notice
        self.roster = Roster(state_dir)
        self._quarantine = Quarantine()
        self._accepted = domains()
        self.changed = asyncio.Event()
        """Set when somebody who was let in may have to go."""
        self._told = ""
        self._keys = discovery_keys(protection)

    def objection(self, peer: str, proven: Proven | None) -> str:
        """Why a peer may not have a link, as the end of a sentence; empty if it may."""
        if proven is not None and proven.domain not in self._accepted:
            return "its secret is no longer accepted"
        return self.roster.objection(peer) or self._quarantine.objection(
            peer, asyncio.get_running_loop().time()
        )

    def offended(self, peer: str, proven: Proven | None, reason: str) -> str:
        """A peer broke the protocol or sent poison; returns for how long it is kept away, for people.

        Empty where ids are not proved: there anybody could have an honest peer kept away.
        """
        if proven is None:
            return ""
        pause = self._quarantine.offended(peer, reason, asyncio.get_running_loop().time())
        return f"it is kept away for {pause:.0f} s"

    def discovery_keys(self) -> tuple[bytes, ...]:
        """By which members recognise each other's announcements, as the files say now or said last."""
        try:
            self._keys = discovery_keys(self._protection)
        except ConfigError as error:
            self._tell(str(error))
        return self._keys

    def learn(self, verdicts: list[Verdict]) -> list[Verdict]:
        """Take verdicts that a neighbour passed on; returns those that are new, as `Roster.learn`."""
        if not isinstance(self._protection, Path):
            return []
        try:
            new = self.roster.learn(verdicts, frozenset(read_secrets(self._protection).admins))
        except (ConfigError, StateError) as error:
            self._tell(str(error))
            return []
        if new:
            self.changed.set()
        return new

    async def watch(self) -> None:
        """Look at the files until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                changed = self.roster.refresh()
            except StateError as error:
                self._tell(str(error))
                changed = False
            if (accepted := self._domains()) != self._accepted:
                self._accepted, changed = accepted, True
            if changed:
                self.changed.set()

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._notice(text)
