"""Who may take part, as it changes: admins' verdicts spread from neighbour to neighbour; who is denied has to go."""

from __future__ import annotations

from decad._proto import peer_pb2 as pb
from decad.daemon.context import PeerContext
from decad.daemon.links import Links
from decad.daemon.session import Session
from decad.errors import ProtocolError
from decad.membership.identity import ID_BYTES, short_id
from decad.trust.proof import NotProvedError
from decad.trust.roster import Verdict
from decad.wire.tls import Statement


class Verdicts:
    """One peer's."""

    def __init__(self, context: PeerContext, links: Links) -> None:
        self._me = context.peer_id
        self._gate, self._progress, self._links = context.gate, context.progress, links

    async def run(self) -> None:
        """Act on what changes, until cancelled."""
        while True:
            await self._gate.changed.wait()
            self._gate.changed.clear()
            for peer, session in list(self._links.sessions.items()):
                if why := self._gate.objection(peer, session.link.proven):
                    self._progress.notice(f"The link to peer {short_id(peer)} is closed: {why}.")
                    self._links.expel(peer, f"this peer may not take part: {why}")
                else:
                    self._links.attempt(session, self.tell)

    def tell(self, session: Session) -> None:
        """All verdicts to one neighbour."""
        if known := self._gate.roster.verdicts():
            told = [
                pb.Verdicts.Verdict(
                    peer_id=bytes.fromhex(verdict.peer),
                    allowed=verdict.allowed,
                    number=verdict.number,
                    key=verdict.statement.key,
                    signature=verdict.statement.signature,
                )
                for verdict in known
            ]
            session.tell(pb.ControlMessage(verdicts=pb.Verdicts(verdicts=told)))

    def heard(self, peer: str, told: pb.Verdicts) -> None:
        """A neighbour passed some on. Raises ProtocolError for a forged one."""
        verdicts = [
            Verdict(v.peer_id.hex(), v.allowed, v.number, Statement(v.key, v.signature))
            for v in told.verdicts
            if len(v.peer_id) == ID_BYTES
        ]
        try:
            new = self._gate.learn(verdicts)
        except NotProvedError:
            raise ProtocolError(
                f"peer {short_id(peer)} passed on a verdict with a forged signature; the link is closed."
            ) from None
        for verdict in new:
            word = "allowed" if verdict.allowed else "denied"
            whom = "this peer" if verdict.peer == self._me else f"peer {short_id(verdict.peer)}"
            self._progress.notice(f"An admin of the run {word} {whom}.")
