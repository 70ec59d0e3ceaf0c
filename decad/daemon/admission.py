"""Who is let in, and with which run spec: every new link passes here before it becomes a session."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress

from decad._proto import peer_pb2 as pb
from decad.config import PROTOCOL_VERSION, RunSpec, is_loopback, split_address
from decad.daemon.context import PeerContext
from decad.daemon.handshake import (
    COPIED,
    DuplicateError,
    Handshake,
    RefusedError,
    SecondDaemonError,
    shake_hands,
)
from decad.daemon.neighbourhood import Neighbourhood
from decad.daemon.session import Session
from decad.membership.agreement import Adopt, Difference, Refuse, agree, parse_set_fields, parse_spec
from decad.membership.suspicion import SUSPECT_FLOOR_S
from decad.wire.numbers import as_uint64
from decad.wire.transport import Link

log = logging.getLogger("decad")


class Admission:
    """``sessions``: those there are, by peer id; ``adopted``: called when the run's settings changed."""

    def __init__(
        self,
        context: PeerContext,
        sessions: Mapping[str, Session],
        neighbourhood: Neighbourhood,
        adopted: Callable[[], None],
    ) -> None:
        self.listening = ""
        """host:port of our own, to be told to others."""
        self.closed = False
        """Nobody is let in any more: this peer is leaving."""
        self.under_way = 0
        """Handshakes that are not done."""
        self._context, self._run = context, context.run
        self._sessions, self._neighbourhood, self._adopted = sessions, neighbourhood, adopted
        self._instance = secrets.randbits(64)
        self._welcomed: Counter[str] = Counter()

    def awaits(self, peer: str) -> bool:
        """Whether this end welcomed another link to ``peer``, which has not answered yet."""
        return self._welcomed[peer] > 0

    async def admit(self, handshake: Handshake, step: int) -> None:
        """Return when both ends welcome the link. ``step``: the next one to take.

        Raises what `shake_hands` raises; the link is then the caller's to close.
        """
        offered, verdicts = self._run.spec, list[Adopt]()
        welcomed = False

        async def judge(theirs: pb.Hello) -> list[Difference]:
            nonlocal welcomed
            handshake.peer, handshake.hello = theirs.peer_id.hex(), theirs
            handshake.address = handshake.dialled or _address_of(handshake.link, theirs)
            differing = await self._judge(handshake, offered, verdicts)
            if not differing:
                welcomed = True
                self._welcomed[handshake.peer] += 1
            return differing

        self.under_way += 1
        try:
            await shake_hands(handshake.link, self._hello(step), judge)
            if verdicts:
                self._adopt(verdicts[0], offered)
            elif offered is not self._run.spec:
                raise DuplicateError("this peer has just adopted another run spec; dial again")
        finally:
            self.under_way -= 1
            if welcomed:
                self._welcomed[handshake.peer] -= 1

    def is_superfluous(self, handshake: Handshake) -> bool:
        """Whether there is a session on a better link: of two that crossed, both ends keep that of the lower id."""
        older = self._sessions.get(handshake.peer)
        if older is None or older.hello.instance != handshake.hello.instance:
            return False
        mine_is_lower = self._context.peer_id < handshake.peer
        return older.link.dialled == mine_is_lower and handshake.link.dialled != mine_is_lower

    async def _judge(self, handshake: Handshake, offered: RunSpec, verdicts: list[Adopt]) -> list[Difference]:
        if why := self._context.gate.objection(handshake.peer, handshake.link.proven):
            raise RefusedError(f"this peer may not take part: {why}")
        await self._refuse_a_second_daemon(handshake)
        if self.closed:
            raise RefusedError("this peer is leaving")
        if offered is not self._run.spec:
            raise DuplicateError("this peer has just adopted another run spec; dial again")
        if self.is_superfluous(handshake):
            raise DuplicateError("there is a link between the two already")
        hello = handshake.hello
        verdict = agree(
            offered,
            self._run.set_fields,
            self._run.frozen,
            self._context.peer_id,
            parse_spec(hello.spec),
            parse_set_fields(hello.set_fields),
            hello.has_trained,
            handshake.peer,
        )
        if isinstance(verdict, Refuse):
            return list(verdict.fields)
        if isinstance(verdict, Adopt):
            verdicts.append(verdict)
        return []

    async def _refuse_a_second_daemon(self, handshake: Handshake) -> None:
        """Raise SecondDaemonError if the peer is here already as another daemon that is alive.

        One that was restarted has another instance too, but then its old link ends or stays silent.
        """
        peer, asked = handshake.peer, asyncio.get_running_loop().time()
        older = self._sessions.get(peer)
        if older is None or older.hello.instance == handshake.hello.instance:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(SUSPECT_FLOOR_S):
                while self._sessions.get(peer) is older and self._neighbourhood.last_seen(peer) <= asked:
                    await self._neighbourhood.wait_change()
        if self._sessions.get(peer) is older and self._neighbourhood.last_seen(peer) > asked:
            where = f" (at {handshake.address})" if handshake.address else ""
            raise SecondDaemonError(
                f"Two daemons use the identity of peer {self._neighbourhood.label(peer)}. The one that was here first "
                f"is kept, and the other{where} is refused. {COPIED}"
            )

    def _adopt(self, verdict: Adopt, offered: RunSpec) -> None:
        run = self._run
        if verdict.spec == run.spec:  # from another link, during this handshake
            return
        if run.frozen or offered is not run.spec:
            raise RefusedError("this peer has settled on a run spec meanwhile; dial again")
        differing = run.spec.differences(verdict.spec)
        shown = ", ".join(f"{field} = {theirs}" for field, (_, theirs) in sorted(differing.items()))
        log.info("took the run's settings from a peer: %s", shown)
        run.spec, run.set_fields = verdict.spec, verdict.set_fields
        self._adopted()

    def _hello(self, step: int) -> pb.Hello:
        host, port = split_address(self.listening)
        return pb.Hello(
            protocol_version=PROTOCOL_VERSION,
            peer_id=bytes.fromhex(self._context.peer_id),
            instance=self._instance,
            spec=self._run.spec.canonical(),
            set_fields=sorted(self._run.set_fields),
            step=as_uint64(step),
            has_trained=self._run.frozen,
            listen_port=port,
            listen_host="" if host in ("0.0.0.0", "::") else host,
            name=self._context.config.name,
        )


def _address_of(link: Link, hello: pb.Hello) -> str:
    """Where others may reach the peer at the other end; empty if they cannot."""
    here = split_address(link.address)[0]
    host = hello.listen_host or here
    if not hello.listen_port or (is_loopback(host) and not is_loopback(here)):
        return ""
    return f"[{host}]:{hello.listen_port}" if ":" in host else f"{host}:{hello.listen_port}"
