"""This peer among the others: keeps the peer table by what links and messages tell, and dials whom it should."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable

from decad._proto import peer_pb2 as pb
from decad.core.constants import MAX_STEP
from decad.core.schedule import earliest
from decad.daemon.context import PeerContext
from decad.daemon.discovery import Discovery
from decad.daemon.exchange import Exchange
from decad.daemon.fetch import FetchPort, ReadBlock
from decad.daemon.handshake import COPIED, Handshake
from decad.daemon.links import Links
from decad.daemon.neighbourhood import Neighbourhood
from decad.daemon.session import Session
from decad.daemon.verdicts import Verdicts
from decad.daemon.views import Views
from decad.errors import MismatchError, NetworkError, OperatorError, PeerError, ProtocolError
from decad.membership.dialplan import DialPlan
from decad.membership.identity import short_id
from decad.membership.table import TICK_S, Origin, PeerTable, Stage, State, Transition
from decad.state.manifest import KnownPeer
from decad.wire.reasons import printable
from decad.wire.transport import Link, Transport

log = logging.getLogger("decad")

REMEMBERED = 64
"""Peers whose addresses a checkpoint keeps: one that answers is enough, and tells of the others."""


class Network:
    """``run`` must be running for anything to happen."""

    def __init__(
        self, context: PeerContext, transport: Transport, exchange: Exchange, donate: ReadBlock
    ) -> None:
        self._context = context
        self.step = 0
        self.stage = Stage.AWAY
        self.end = 0
        """The step before which the training ends, if an operator had it end early; 0 if none did."""
        self.listening = ""
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with the error that this machine's operator must see before the first step."""
        self.mismatch: MismatchError | None = None
        """The last one, with whomever."""
        now = self.now()
        self.table = PeerTable(now)
        self.neighbourhood = Neighbourhood(context, self.table)
        self.dials = DialPlan(context.peer_id, random.Random(context.peer_id))
        for address in context.config.peers:
            self.dials.add(address, "peers", now)
        self.discovery = Discovery(context, self.dials, context.progress.notice)
        self._links = Links(context, transport, exchange, donate, self, self.neighbourhood, self.dials)
        self._views = Views(self.table, self.dials, self._links.sessions, self._links.attempt)
        self._verdicts = Verdicts(context, self._links)
        self._leaving = False

    # -- what the trainer and the status ask ----------------------------------------------------------------

    def donors(self) -> dict[str, FetchPort]:
        """Peers within a step of the furthest, who can give blocks."""
        sessions = self._links.sessions
        return {peer: sessions[peer].fetch for peer in self.neighbourhood.furthest() if peer in sessions}

    def as_far_as(self, step: int) -> dict[str, FetchPort]:
        """Linked peers that have come to ``step``, whether they still train or not."""
        return {
            peer: session.fetch
            for peer, session in self._links.sessions.items()
            if self.table[peer].step >= step
        }

    def announce(self, step: int, stage: Stage) -> None:
        """Tell the neighbours where this peer is."""
        force = stage is not self.stage
        self.step, self.stage = step, stage
        for session in list(self._links.sessions.values()):
            self._links.attempt(session, lambda s: s.tell_beacon(force))

    def bring_forward(self, end: int) -> None:
        """Have the training of all peers end before step ``end``, unless it does so earlier; 0 changes nothing."""
        if (first := earliest(self.end, end)) != self.end:
            self.end = first
            for session in list(self._links.sessions.values()):
                self._links.attempt(session, lambda s: s.tell_beacon(force=True))
            self.neighbourhood.changed.set()

    def found(self, peer: str) -> Origin:
        """How we would find this peer again: the surest of all the ways in which we heard of it."""
        there = self.table[peer].address  # of an announcement it is not known whose it is
        near = [a for a in self.dials.addresses if a.peer == peer or a.address == there]
        ways = {a.found for a in near} | {self.table[peer].found}
        if any(a.announced for a in near):
            ways.add("mdns")
        order: tuple[Origin, ...] = ("peers", "mdns", "exchange", "inbound")
        return next(way for way in order if way in ways)

    def known_peers(self) -> tuple[KnownPeer, ...]:
        """Where peers were met, those heard last first: what a checkpoint keeps for the next start."""
        met = sorted((p for p in self.table.peers if p.address), key=lambda p: p.last_seen, reverse=True)
        places = {p.address: p.id for p in met}
        for a in self.dials.addresses:
            if a.reached and a.peer is not None:
                places.setdefault(a.address, a.peer)
        known = [KnownPeer(address=address, peer_id=peer) for address, peer in places.items()]
        return tuple(known[:REMEMBERED])

    def remember(self, peers: Iterable[KnownPeer]) -> None:
        """Dial what an earlier daemon's checkpoint kept, beside the operator's addresses."""
        for known in peers:
            self.dials.remember(known.address, known.peer_id, self.now())

    def now(self) -> float:
        """The clock of the peer table, in seconds."""
        return asyncio.get_running_loop().time()

    @property
    def linked(self) -> int:
        """Established links."""
        return len(self._links.sessions)

    @property
    def undecided(self) -> bool:
        """Whether a handshake or the first dial of an address is under way, or a peer has yet to say where it is."""
        return (
            self._links.admission.under_way > 0
            or any(a.dialling and not a.failures for a in self.dials.addresses)
            or not all(session.heard for session in self._links.sessions.values())
        )

    def unreachable(self) -> list[tuple[str, str]]:
        """Addresses of the operator at which nobody was ever reached, with the reason if it is known."""
        return [(a.address, a.reason) for a in self.dials.addresses if a.found == "peers" and not a.reached]

    # -- running --------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Accept links. Raises NetworkError when the address is taken or wrong."""
        self.listening = await self._links.listen(self._context.listen)

    async def run(self) -> None:
        """Dial, tick and discover until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._context.gate.watch())
            group.create_task(self._verdicts.run())
            if self._context.config.mdns:
                group.create_task(self._discover())
            while not self._leaving:
                now = self.now()
                self._moved(self.table.tick(now))
                for address in self.dials.due(self._links.sessions.keys(), now):
                    group.create_task(self._links.dial(address))
                await asyncio.sleep(TICK_S)

    async def farewell(self, reason: str) -> None:
        """Say goodbye to every neighbour and close all links."""
        self.stage, self._leaving = Stage.AWAY, True
        await self._links.farewell(reason)

    async def _discover(self) -> None:
        try:
            await self.discovery.run(self.listening)
        except NetworkError as error:
            self._fail(error)

    def freeze(self) -> None:
        """Training begins: the run's settings stay as they are."""
        self._context.run.frozen = True
        self.discovery.settings_changed()

    # -- what links and neighbours tell ---------------------------------------------------------------------

    def link_up(self, handshake: Handshake, found: Origin) -> None:
        """Both ends welcomed a link."""
        hello = handshake.hello
        self._moved(
            self.table.link_up(
                handshake.peer,
                handshake.link,
                self.now(),
                name=hello.name,
                address=handshake.address,
                found=found,
                instance=hello.instance,
            )
        )

    def session_begins(self, session: Session) -> None:
        """The link of a peer is ready, and the only one to it."""
        self._views.tell(session)
        self._verdicts.tell(session)
        session.tell_beacon(force=True)
        self._views.broadcast()
        if session.hello.name and session.hello.name == self._context.config.name:
            self._context.progress.notice(
                f"Peer {self.neighbourhood.label(session.peer)} has the name of this one. Peers of one name that have "
                "the same data also draw it in the same order: give each a --name of its own, or none."
            )

    def link_down(self, peer: str, link: Link, reason: str) -> None:
        """A session has ended."""
        self._moved(self.table.link_down(peer, link, reason, self.now()))

    def run_adopted(self) -> None:
        """The run's settings are another peer's now."""
        self.discovery.settings_changed()

    def mismatched(self, error: MismatchError, address: str) -> None:
        """Fatal before the first step if the operator named this peer and it was dialled: ``address``; else empty.

        Where who dialled here is to be found, it says itself: it may name the operator's address.
        """
        self.mismatch = error
        given = any(a.address == address and a.found == "peers" for a in self.dials.addresses)
        if given and not self._context.run.frozen:
            self._fail(error)
        else:
            self._context.progress.notice(str(error))

    def heard_beacon(self, peer: str, beacon: pb.Beacon, round_trip_s: float | None) -> None:
        """Raises ProtocolError."""
        try:
            stage = Stage(beacon.stage)
        except ValueError:
            raise ProtocolError(
                f"peer {short_id(peer)} says that it is in stage {beacon.stage}, which does not exist; the link is "
                "closed."
            ) from None
        # Who hears of it late is still close behind; an end long past would end the run for one who is not.
        if beacon.end and beacon.end + self._context.run.spec.inner_steps > self.step:
            self.bring_forward(min(beacon.end, MAX_STEP))
        before = self.table.mixing
        self._moved(
            self.table.heard(peer, self.now(), step=beacon.step, stage=stage, round_trip_s=round_trip_s)
        )
        if before != self.table.mixing:
            self._views.broadcast()
        self.neighbourhood.changed.set()

    def seen(self, peer: str) -> None:
        """Something else than a control message came from a peer."""
        self._moved(self.table.seen(peer, self.now()))

    def heard_view(self, peer: str, view: pb.View) -> None:
        """A neighbour told whom it knows."""
        self._views.heard(peer, view)
        self.neighbourhood.changed.set()

    def heard_goodbye(self, peer: str, goodbye: pb.Goodbye) -> None:
        """A neighbour stops."""
        self._moved(self.table.goodbye(peer, printable(goodbye.reason), self.now()))

    def heard_verdicts(self, peer: str, verdicts: pb.Verdicts) -> None:
        """A neighbour passed on what admins said about peers. Raises ProtocolError."""
        self._verdicts.heard(peer, verdicts)

    def heard_duplicate_identity(self, peer: str) -> None:
        """A neighbour refused another daemon that has this one's identity."""
        self._context.progress.notice(
            f"Peer {self.neighbourhood.label(peer)} refused another daemon that uses this peer's identity. {COPIED}"
        )

    def _moved(self, transitions: list[Transition]) -> None:
        for peer, old, new, reason in () if self._leaving else transitions:
            who = self.neighbourhood.label(peer)
            # Until the run's settings stand, links are closed and made anew: of no interest to anybody.
            quiet = not self._context.run.frozen and State.GONE not in (old, new)
            log.log(logging.DEBUG if quiet else logging.INFO, "%s is %s: %s", who, new.value, reason)
            if new is State.GONE:
                self._links.drop(peer)
            if new is not State.ALIVE and old is State.ALIVE and "goodbye" not in reason and not quiet:
                self._context.progress.notices.add(f"{who} is {new.value}: {reason}.")
        if transitions:
            self._views.broadcast()
            self.neighbourhood.changed.set()

    def _fail(self, error: OperatorError | PeerError) -> None:
        if not self.fatal.done():
            self.fatal.set_exception(error)
