"""What neighbours tell each other of who is there: everybody's own links, and over which of them they mix."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from decad._proto import peer_pb2 as pb
from decad.config import MAX_ADDRESS_CHARS
from decad.daemon.session import Session
from decad.membership.dialplan import DialPlan
from decad.membership.identity import ID_BYTES, short_id
from decad.membership.table import PeerTable

log = logging.getLogger("decad")


class Views:
    """``sessions``: by peer id; ``attempt`` calls what it is given with a session, and closes that if it cannot."""

    def __init__(
        self,
        table: PeerTable,
        dials: DialPlan,
        sessions: Mapping[str, Session],
        attempt: Callable[[Session, Callable[[Session], None]], None],
    ) -> None:
        self._table, self._dials, self._sessions, self._attempt = table, dials, sessions, attempt
        self._sent: tuple[tuple[str, str, bool], ...] = ()

    def broadcast(self) -> None:
        """Tell all neighbours, if there is anything new."""
        mixing = self._table.mixing
        members = tuple(
            (p.id, p.address, p.id in mixing) for p in self._table.peers if p.id in self._sessions
        )
        if members == self._sent:
            return
        self._sent = members
        for session in list(self._sessions.values()):
            self._attempt(session, self.tell)

    def tell(self, session: Session) -> None:
        """Tell one neighbour."""
        mixing = self._table.mixing
        members = [
            pb.View.Member(peer_id=bytes.fromhex(p.id), address=p.address, mixing=p.id in mixing)
            for p in self._table.peers
            if p.id in self._sessions and p.id != session.peer
        ]
        if session.peer in mixing:
            members.append(pb.View.Member(peer_id=bytes.fromhex(session.peer), mixing=True))
        session.tell(pb.ControlMessage(view=pb.View(members=members)))

    def heard(self, peer: str, view: pb.View) -> None:
        """A neighbour told its own: with whom it mixes, and whom we may dial."""
        members = [m for m in view.members if len(m.peer_id) == ID_BYTES]
        self._table.viewed(peer, frozenset(m.peer_id.hex() for m in members if m.mixing))
        now = asyncio.get_running_loop().time()
        for member in members:
            if member.address and len(member.address) <= MAX_ADDRESS_CHARS and member.address.isprintable():
                try:
                    self._dials.add(member.address, "exchange", now, member.peer_id.hex())
                except ValueError:
                    log.debug("peer %s named a malformed address", short_id(peer))
