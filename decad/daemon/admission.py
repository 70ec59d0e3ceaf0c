"""Who is let in, and on whose terms: every new link passes here before it becomes a session."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from decad._proto import peer_pb2 as pb
from decad.config import PROTOCOL_VERSION, RunSpec, is_loopback, split_address
from decad.daemon.greeting import DuplicateError, RefusedError, greet
from decad.daemon.session import Session
from decad.membership.agreement import Adopt, Difference, Refuse, agree, parse_set_fields, parse_spec
from decad.wire.transport import Link

log = logging.getLogger("decad")


@dataclass
class Terms:
    """The run spec as it stands: adopted from a peer at most until ``frozen``."""

    spec: RunSpec
    set_fields: frozenset[str]
    frozen: bool = False


@dataclass
class Stranger:
    """The other end of a link while it is greeted; what it says of itself is filled in as it comes."""

    link: Link
    dialled: str | None
    """The address that we dialled; None when the other end did."""
    peer: str = ""
    """Its id, once it has said Hello."""
    address: str = ""
    """Where it may be dialled; empty if that is not known or cannot be."""


class Admission:
    """``session``: peer id -> the session that we have with it; ``adopted``: called when ``terms`` changed."""

    def __init__(
        self,
        peer_id: str,
        name: str,
        terms: Terms,
        session: Callable[[str], Session | None],
        adopted: Callable[[], None],
    ) -> None:
        self.terms = terms
        self.listening = ""
        """host:port of our own, to be told to others."""
        self.closed = False
        """Nobody is let in any more: this peer is leaving."""
        self.under_way = 0
        """Links that are being greeted."""
        self._peer_id, self._name = peer_id, name
        self._session, self._adopted = session, adopted
        self._instance = secrets.randbits(64)
        self._welcomed: Counter[str] = Counter()

    def awaits(self, peer: str) -> bool:
        """Whether this end welcomed another link to ``peer``, which has not answered yet."""
        return self._welcomed[peer] > 0

    async def admit(self, stranger: Stranger, step: int) -> pb.Hello:
        """Greet; returns the other's Hello when both ends welcome the link. ``step``: the next one to take.

        Raises what `greet` raises; the link is then the caller's to close.
        """
        offered, verdicts = self.terms.spec, list[Adopt]()
        welcomed = False

        def judge(theirs: pb.Hello) -> list[Difference]:
            nonlocal welcomed
            stranger.peer = theirs.peer_id.hex()
            stranger.address = stranger.dialled or _address_of(stranger.link, theirs)
            differing = self._judge(stranger.link, offered, theirs, verdicts)
            if not differing:
                welcomed = True
                self._welcomed[stranger.peer] += 1
            return differing

        self.under_way += 1
        try:
            hello = await greet(stranger.link, self._hello(step), judge)
            if verdicts:
                self._adopt(verdicts[0], offered)
            elif offered is not self.terms.spec:
                raise DuplicateError("this peer has just adopted another run spec; dial again")
            return hello
        finally:
            self.under_way -= 1
            if welcomed:
                self._welcomed[stranger.peer] -= 1

    def is_superfluous(self, link: Link, hello: pb.Hello) -> bool:
        """Whether there is a session on a better link: of two that crossed, both ends keep that of the lower id."""
        older = self._session(hello.peer_id.hex())
        if older is None or older.hello.instance != hello.instance:
            return False
        mine_is_lower = self._peer_id < hello.peer_id.hex()
        return older.link.dialled == mine_is_lower and link.dialled != mine_is_lower

    def _judge(
        self, link: Link, offered: RunSpec, hello: pb.Hello, verdicts: list[Adopt]
    ) -> list[Difference]:
        if self.closed:
            raise RefusedError("this peer is leaving")
        if offered is not self.terms.spec:
            raise DuplicateError("this peer has just adopted another run spec; dial again")
        if self.is_superfluous(link, hello):
            raise DuplicateError("there is a link between the two already")
        peer = hello.peer_id.hex()
        verdict = agree(
            offered,
            self.terms.set_fields,
            self.terms.frozen,
            self._peer_id,
            parse_spec(hello.spec),
            parse_set_fields(hello.set_fields),
            hello.has_trained,
            peer,
        )
        if isinstance(verdict, Refuse):
            return list(verdict.fields)
        if isinstance(verdict, Adopt):
            verdicts.append(verdict)
        return []

    def _adopt(self, verdict: Adopt, offered: RunSpec) -> None:
        if verdict.spec == self.terms.spec:  # from another link, while this one was greeting
            return
        if self.terms.frozen or offered is not self.terms.spec:
            raise RefusedError("this peer has settled on a run spec meanwhile; dial again")
        differing = self.terms.spec.differences(verdict.spec)
        shown = ", ".join(f"{field} = {theirs}" for field, (_, theirs) in sorted(differing.items()))
        log.info("took the run's settings from a peer: %s", shown)
        self.terms.spec, self.terms.set_fields = verdict.spec, verdict.set_fields
        self._adopted()

    def _hello(self, step: int) -> pb.Hello:
        host, port = split_address(self.listening)
        return pb.Hello(
            protocol_version=PROTOCOL_VERSION,
            peer_id=bytes.fromhex(self._peer_id),
            instance=self._instance,
            spec=self.terms.spec.canonical(),
            set_fields=sorted(self.terms.set_fields),
            step=step,
            has_trained=self.terms.frozen,
            listen_port=port,
            listen_host="" if host in ("0.0.0.0", "::") else host,
            name=self._name,
        )


def _address_of(link: Link, hello: pb.Hello) -> str:
    """Where others may reach the peer at the other end; empty if they cannot."""
    here = split_address(link.address)[0]
    host = hello.listen_host[:64] or here
    if not hello.listen_port or (is_loopback(host) and not is_loopback(here)):
        return ""
    return f"[{host}]:{hello.listen_port}" if ":" in host else f"{host}:{hello.listen_port}"
