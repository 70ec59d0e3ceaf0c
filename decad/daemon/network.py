"""All links of this peer: accepts and dials them, runs their sessions, and keeps the peer table by what they tell."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from contextlib import suppress

from decad._proto import peer_pb2 as pb
from decad.config import PeerConfig
from decad.core.blocks import BlockPlan
from decad.daemon.admission import Admission, Stranger, Terms
from decad.daemon.exchange import Exchange
from decad.daemon.fetch import FetchPort, ReadBlock
from decad.daemon.greeting import MyselfError, RefusedError
from decad.daemon.lookout import Lookout
from decad.daemon.neighbourhood import Neighbourhood
from decad.daemon.progress import Notices
from decad.daemon.session import Overheard, Session
from decad.daemon.views import Views
from decad.errors import LinkClosed, MismatchError, NetworkError, OperatorError, PeerError, ProtocolError
from decad.membership.dialplan import DialPlan
from decad.membership.identity import Identity, short_id
from decad.membership.table import Origin, PeerTable, Stage, State, Transition
from decad.state.manifest import KnownPeer
from decad.wire.counters import ByteCounter
from decad.wire.malloc import trim_malloc
from decad.wire.messages import encode_control
from decad.wire.reasons import printable
from decad.wire.transport import Link, Transport

log = logging.getLogger("decad")

TICK_S = 0.25
DIAL_TIMEOUT_S = 5.0
REMEMBERED = 64
"""Peers whose addresses a checkpoint keeps: one that answers is enough, and tells of the others."""
REPLACED_S = 1.0
"""How long a link that takes the place of another may take to be greeted."""
FAREWELL_S = 1.0
"""How long a last word to a peer may take."""


class Network:
    """All links of this peer. ``run`` must be running for anything to happen."""

    def __init__(
        self,
        identity: Identity,
        config: PeerConfig,
        terms: Terms,
        plan: BlockPlan,
        transport: Transport,
        exchange: Exchange,
        donate: ReadBlock,
        sent: ByteCounter,
        received: ByteCounter,
        notices: Notices,
    ) -> None:
        self._identity, self._config, self.terms, self._plan = identity, config, terms, plan
        self._transport, self._exchange, self._donate = transport, exchange, donate
        self._sent, self._received, self._notices = sent, received, notices
        self.step = 0
        self.stage = Stage.AWAY
        self.listening = ""
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with the error that this machine's operator must see before the first step."""
        self.mismatch: MismatchError | None = None
        """The last one, with whomever."""
        now = asyncio.get_running_loop().time()
        self.table = PeerTable(now)
        self.neighbourhood = Neighbourhood(identity.peer_id, config.name, terms, self.table)
        self.dials = DialPlan(identity.peer_id, random.Random(identity.peer_id))
        for address in config.peers:
            self.dials.add(address, "peers", now)
        self.lookout = Lookout(
            identity.peer_id, config, terms, self.dials, lambda error: self.notice(str(error))
        )
        self._sessions: dict[str, Session] = {}
        self._admission = Admission(
            identity.peer_id, config.name, terms, self._sessions.get, self._terms_adopted
        )
        self._views = Views(self.table, self.dials, self._sessions, self._attempt)
        self._leaving = False
        self._closing: set[asyncio.Task[None]] = set()

    # -- what the trainer and the status ask ----------------------------------------------------------------

    def donors(self) -> dict[str, FetchPort]:
        """Peers within a step of the furthest, who can give blocks."""
        furthest = self.neighbourhood.furthest()
        return {peer: self._sessions[peer].fetch for peer in furthest if peer in self._sessions}

    def announce(self, step: int, stage: Stage) -> None:
        """Tell the neighbours where this peer is."""
        force = stage is not self.stage
        self.step, self.stage = step, stage
        for session in list(self._sessions.values()):
            self._attempt(session, lambda s: s.tell_beacon(force))

    def found(self, peer: str) -> Origin:
        """How we would find this peer again: the surest of all the ways in which we heard of it."""
        ways = {a.found for a in self.dials.addresses if a.peer == peer} | {self.table[peer].found}
        if any(a.announced for a in self.dials.addresses if a.peer == peer):
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
        return len(self._sessions)

    @property
    def undecided(self) -> bool:
        """Whether a greeting or the first dial of an address is under way, or a peer has yet to say where it is."""
        return (
            self._admission.under_way > 0
            or any(a.dialling and not a.failures for a in self.dials.addresses)
            or not all(session.heard for session in self._sessions.values())
        )

    def unreachable(self) -> list[tuple[str, str]]:
        """Addresses of the operator at which nobody was ever reached, with the reason if it is known."""
        return [(a.address, a.reason) for a in self.dials.addresses if a.found == "peers" and not a.reached]

    # -- running --------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Accept links. Raises NetworkError when the address is taken or wrong."""
        self.listening = await self._transport.listen(self._config.listen, self._accept)
        self._admission.listening = self.listening

    async def run(self) -> None:
        """Dial, tick and discover until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._config.mdns:
                group.create_task(self._look_out())
            while not self._leaving:
                now = asyncio.get_running_loop().time()
                self._moved(self.table.tick(now))
                for address in self.dials.due(self._sessions.keys(), now):
                    group.create_task(self._dial(address))
                await asyncio.sleep(TICK_S)

    async def farewell(self, reason: str) -> None:
        """Say goodbye to every neighbour and close all links."""
        self.stage, self._leaving, self._admission.closed = Stage.AWAY, True, True
        sessions = list(self._sessions.values())
        for session in sessions:
            self._attempt(session, lambda s: s.tell(pb.ControlMessage(goodbye=pb.Goodbye(reason=reason))))
        if sessions:
            flushes = [asyncio.ensure_future(session.flush()) for session in sessions]
            _, pending = await asyncio.wait(flushes, timeout=FAREWELL_S)
            for flush in pending:
                flush.cancel()
        await self._transport.close()

    async def _look_out(self) -> None:
        try:
            await self.lookout.run(self.listening)
        except NetworkError as error:
            self._fail(error)

    def freeze(self) -> None:
        """Training begins: the run's terms stay as they are."""
        self.terms.frozen = True
        self.lookout.terms_changed()

    # -- links ----------------------------------------------------------------------------------------------

    async def _dial(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        entry = next(a for a in self.dials.addresses if a.address == address)
        try:
            link = await self._transport.dial(address, DIAL_TIMEOUT_S)
            await self._greet(Stranger(link, address), entry.found)
        except MyselfError:
            self.dials.was_myself(address, loop.time())
        except PeerError as error:
            self.dials.failed(address, _clause(error).removeprefix(f"{address}: "), loop.time())

    async def _accept(self, link: Link) -> None:
        try:
            await self._greet(Stranger(link, None), "inbound")
        except (LinkClosed, MismatchError):
            pass
        except RefusedError as error:
            log.debug("%s: %s", link.address, error)
        except PeerError as error:
            self.notice(str(error))

    async def _greet(self, stranger: Stranger, found: Origin) -> None:
        """Greet and run the session of one link until it ends."""
        try:
            hello = await self._admission.admit(stranger, self.step)
        except BaseException as error:
            if isinstance(error, MismatchError):
                self._mismatched(error, stranger.address or stranger.dialled or "")
            await stranger.link.close()
            if stranger.dialled and isinstance(error, RefusedError) and stranger.peer in self._sessions:
                # It is there, and linked with us already: nothing to dial until that link ends.
                self._reached(stranger)
                return
            raise
        finally:
            self.neighbourhood.changed.set()
        self._reached(stranger)
        if self._admission.is_superfluous(stranger.link, hello):  # they crossed, and both were welcomed
            await stranger.link.close()
        else:
            await self._converse(stranger, hello, found)

    def _reached(self, stranger: Stranger) -> None:
        if stranger.dialled:
            self.dials.reached(stranger.dialled, stranger.peer, asyncio.get_running_loop().time())

    async def _converse(self, stranger: Stranger, hello: pb.Hello, found: Origin) -> None:
        loop, peer, link = asyncio.get_running_loop(), stranger.peer, stranger.link
        channel = Overheard(link.fetch, lambda: self.overheard(peer))
        fetch = FetchPort(channel, self._plan, self._donate, self._sent, self._received)
        session = Session(peer, link, hello, self, self._exchange, fetch, self._sent, self._received)
        self._moved(
            self.table.link_up(
                peer,
                link,
                loop.time(),
                name=hello.name,
                address=stranger.address,
                found=found,
                instance=hello.instance,
            )
        )
        older, self._sessions[peer] = self._sessions.get(peer), session
        reason = "the daemon stops"
        try:
            if older is not None:
                await older.link.close()
                await older.ended.wait()
            if self._sessions.get(peer) is session:  # else it was replaced itself meanwhile
                self._views.tell(session)
                session.tell_beacon(force=True)
                self._views.broadcast()
                await session.run()
        except LinkClosed as error:
            reason = _clause(error)
            await self._other_link(peer, session)
        except PeerError as error:
            reason = _clause(error)
            self.notice(str(error))
            await self._last_word(link, reason)
        finally:
            session.fetch.end()
            session.ended.set()
            if self._sessions.get(peer) is session:
                del self._sessions[peer]
            self._moved(self.table.link_down(peer, link, reason, loop.time()))
            await link.close()
            loop.run_in_executor(None, trim_malloc)

    async def _other_link(self, peer: str, session: Session) -> None:
        """A link ended: perhaps because another one to the same peer takes its place, which is being greeted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REPLACED_S):
                while self._admission.awaits(peer) and self._sessions.get(peer) is session:
                    await self.neighbourhood.wait_change()

    async def _last_word(self, link: Link, reason: str) -> None:
        refusal = encode_control(pb.ControlMessage(refusal=pb.Refusal(reason=reason)))
        word = asyncio.ensure_future(link.control.send(refusal))
        await asyncio.wait({word}, timeout=FAREWELL_S)
        await link.close()
        await asyncio.wait({word})
        word.exception()

    def _terms_adopted(self) -> None:
        self._exchange.adopt(self.terms.spec)
        self.lookout.terms_changed()
        for session in list(self._sessions.values()):
            # They agreed to other terms: let them greet again.
            self._sessions.pop(session.peer)
            self._close_soon(session.link)

    # -- what neighbours tell -------------------------------------------------------------------------------

    def heard_beacon(self, peer: str, beacon: pb.Beacon, round_trip_s: float | None) -> None:
        try:
            stage = Stage(beacon.stage)
        except ValueError:
            raise ProtocolError(
                f"peer {short_id(peer)} says that it is in stage {beacon.stage}, which does not exist; the link is "
                "closed."
            ) from None
        now = asyncio.get_running_loop().time()
        before = self.table.mixing
        self._moved(self.table.heard(peer, now, step=beacon.step, stage=stage, round_trip_s=round_trip_s))
        if before != self.table.mixing:
            self._views.broadcast()
        self.neighbourhood.changed.set()

    def overheard(self, peer: str) -> None:
        self._moved(self.table.overheard(peer, asyncio.get_running_loop().time()))

    def heard_view(self, peer: str, view: pb.View) -> None:
        self._views.heard(peer, view)
        self.neighbourhood.changed.set()

    def heard_goodbye(self, peer: str, goodbye: pb.Goodbye) -> None:
        self._moved(self.table.goodbye(peer, printable(goodbye.reason), asyncio.get_running_loop().time()))

    def _moved(self, transitions: list[Transition]) -> None:
        for peer, old, new, reason in () if self._leaving else transitions:
            who = self.neighbourhood.name_of(peer)
            # Until the run's settings stand, links are closed and made anew: of no interest to anybody.
            quiet = not self.terms.frozen and State.GONE not in (old, new)
            log.log(logging.DEBUG if quiet else logging.INFO, "%s is %s: %s", who, new.value, reason)
            if new is State.GONE and (session := self._sessions.pop(peer, None)):
                session.leave()
                self._close_soon(session.link)
            if new is not State.ALIVE and old is State.ALIVE and "goodbye" not in reason and not quiet:
                self._notices.add(f"{who} is {new.value}: {reason}.")
        if transitions:
            self._views.broadcast()
            self.neighbourhood.changed.set()

    def _attempt(self, session: Session, tell: Callable[[Session], None]) -> None:
        try:
            tell(session)
        except PeerError as error:
            self.notice(str(error))
            self._close_soon(session.link)

    def _close_soon(self, link: Link) -> None:
        task = asyncio.ensure_future(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _mismatched(self, error: MismatchError, address: str) -> None:
        """Fatal before the first step if the operator named this peer, whichever of the two dialled."""
        self.mismatch = error
        given = any(a.address == address and a.found == "peers" for a in self.dials.addresses)
        if given and not self.terms.frozen:
            self._fail(error)
        else:
            self.notice(str(error))

    def _fail(self, error: OperatorError | PeerError) -> None:
        if not self.fatal.done():
            self.fatal.set_exception(error)

    def notice(self, text: str) -> None:
        """Tell the operator, in the log and the status."""
        if self._notices.add(text):
            log.warning(text)


def _clause(error: PeerError) -> str:
    """An error's text as part of a sentence."""
    return str(error).rstrip(".")
