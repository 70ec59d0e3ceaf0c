"""The links of this peer: dialled and accepted, from their handshake to their end."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from decad._proto import peer_pb2 as pb
from decad.daemon.admission import Admission
from decad.daemon.context import PeerContext
from decad.daemon.exchange import Exchange
from decad.daemon.fetch import FetchPort, ReadBlock
from decad.daemon.handshake import Handshake, MyselfError, RefusedError, SecondDaemonError
from decad.daemon.neighbourhood import Neighbourhood
from decad.daemon.session import ObservedChannel, Session, SessionListener
from decad.errors import LinkClosed, MismatchError, PeerError, PoisonError, ProtocolError, SealError
from decad.membership.dialplan import DialPlan
from decad.membership.identity import short_id
from decad.membership.table import Origin
from decad.wire.limits import MOST_HALF_OPEN, MOST_LINKS_OF_ONE, SERVED_AT_ONCE
from decad.wire.malloc import trim_malloc
from decad.wire.messages import encode_control
from decad.wire.transport import Link, Transport

log = logging.getLogger("decad")

DIAL_TIMEOUT_S = 5.0
REPLACED_S = 1.0
"""How long the handshake of a link that takes the place of another may take."""
FAREWELL_S = 1.0
"""How long a last word to a peer may take."""


class LinkListener(SessionListener, Protocol):
    """Hears what becomes of links, beside what comes on them."""

    def link_up(self, handshake: Handshake, found: Origin) -> None: ...
    def session_begins(self, session: Session) -> None: ...
    def link_down(self, peer: str, link: Link, reason: str) -> None: ...
    def mismatched(self, error: MismatchError, address: str) -> None: ...
    def run_adopted(self) -> None: ...


class Links:
    """``donate`` gives a joiner a block; ``dials`` learns what became of each dial."""

    def __init__(
        self,
        context: PeerContext,
        transport: Transport,
        exchange: Exchange,
        donate: ReadBlock,
        listener: LinkListener,
        neighbourhood: Neighbourhood,
        dials: DialPlan,
    ) -> None:
        self._context, self._transport, self._exchange = context, transport, exchange
        self._donate, self._listener = donate, listener
        self._neighbourhood, self._dials = neighbourhood, dials
        self.sessions: dict[str, Session] = {}
        """By peer id."""
        self.admission = Admission(context, self.sessions, neighbourhood, self._run_adopted)
        self._places = asyncio.Semaphore(SERVED_AT_ONCE)
        self._half_open: dict[Link, None] = {}
        """Accepted, the oldest first."""
        self._of: Counter[str] = Counter()
        """Accepted links by proved identity."""
        self._closing: set[asyncio.Task[None]] = set()

    async def listen(self, address: str) -> str:
        """Accept links; returns host:port. Raises NetworkError when the address is taken or wrong."""
        self.admission.listening = await self._transport.listen(address, self._accept)
        return self.admission.listening

    async def dial(self, address: str) -> None:
        """Dial and serve one link until it ends. Raises nothing: whatever one link does, the daemon goes on."""
        loop = asyncio.get_running_loop()
        entry = next(a for a in self._dials.addresses if a.address == address)
        try:
            link = await self._transport.dial(address, DIAL_TIMEOUT_S)
            await self._serve(Handshake(link, address), entry.found)
        except MyselfError:
            self._dials.was_myself(address, loop.time())
        except PeerError as error:
            self._dials.failed(address, _clause(error).removeprefix(f"{address}: "), loop.time())
        except Exception as error:
            self._dials.failed(address, self._broken(address, error), loop.time())

    async def farewell(self, reason: str) -> None:
        """Say goodbye to every neighbour and close all links."""
        self.admission.closed = True
        sessions = list(self.sessions.values())
        for session in sessions:
            self.attempt(session, lambda s: s.tell(pb.ControlMessage(goodbye=pb.Goodbye(reason=reason))))
        if sessions:
            flushes = [asyncio.ensure_future(session.flush()) for session in sessions]
            _, pending = await asyncio.wait(flushes, timeout=FAREWELL_S)
            for flush in pending:
                flush.cancel()
        await self._transport.close()

    def attempt(self, session: Session, tell: Callable[[Session], None]) -> None:
        """Tell a neighbour something; the link to one that takes nothing in is closed."""
        try:
            tell(session)
        except PeerError as error:
            self._context.progress.notice(str(error))
            self._close_soon(session.link)

    def drop(self, peer: str) -> None:
        """The peer is gone: its link is closed, whatever it still brings."""
        if session := self.sessions.pop(peer, None):
            session.leave()
            self._close_soon(session.link)

    def expel(self, peer: str, reason: str) -> None:
        """The peer may not take part any more: it is told why, and its link is closed."""
        if session := self.sessions.get(peer):
            session.leave()
            self._soon(self._last_word(session.link, reason))

    async def _accept(self, link: Link) -> None:
        peer = link.proven.peer if link.proven else ""
        self._of[peer] += 1
        self._half_open[link] = None
        try:
            if peer and self._of[peer] > MOST_LINKS_OF_ONE:
                raise RefusedError(f"peer {short_id(peer)} has {MOST_LINKS_OF_ONE} links here already")
            if len(self._half_open) > MOST_HALF_OPEN:
                oldest = next(iter(self._half_open))
                del self._half_open[oldest]
                self._close_soon(oldest)
            await self._serve(Handshake(link), "inbound")
        except (LinkClosed, MismatchError):
            pass
        except RefusedError as error:
            log.debug("%s: %s", link.address, error)
        except PeerError as error:
            self._context.progress.notice(str(error))
        except Exception as error:
            self._broken(link.address, error)
        finally:
            self._half_open.pop(link, None)
            self._of[peer] -= 1
            if not self._of[peer]:
                del self._of[peer]

    async def _serve(self, handshake: Handshake, found: Origin) -> None:
        """Handshake and session of one link, until it ends."""
        try:
            await self.admission.admit(handshake, self._listener.step)
        except BaseException as error:
            if isinstance(error, SecondDaemonError):
                self._tell_of_a_second_daemon(handshake.peer, error)
            elif isinstance(error, MismatchError):
                self._listener.mismatched(error, handshake.dialled or "")
            await handshake.link.close()
            if handshake.dialled and isinstance(error, RefusedError) and handshake.peer in self.sessions:
                # It is there, and linked with us already: nothing to dial until that link ends.
                self._reached(handshake)
                return
            raise
        finally:
            self._half_open.pop(handshake.link, None)
            self._neighbourhood.changed.set()
        self._reached(handshake)
        if self.admission.is_superfluous(handshake):  # they crossed, and both were welcomed
            await handshake.link.close()
        else:
            await self._converse(handshake, found)

    def _tell_of_a_second_daemon(self, peer: str, error: SecondDaemonError) -> None:
        self._context.progress.notice(str(error))
        if older := self.sessions.get(peer):
            told = pb.ControlMessage(duplicate_identity=pb.DuplicateIdentity())
            self.attempt(older, lambda s: s.tell(told))

    def _reached(self, handshake: Handshake) -> None:
        if handshake.dialled:
            self._dials.reached(handshake.dialled, handshake.peer, asyncio.get_running_loop().time())

    async def _converse(self, handshake: Handshake, found: Origin) -> None:
        peer, link, traffic = handshake.peer, handshake.link, self._context.traffic
        channel = ObservedChannel(link.fetch, lambda: self._listener.seen(peer))
        fetch = FetchPort(channel, self._context.kept, self._donate, traffic, self._places)
        session = Session(handshake, self._listener, self._exchange, fetch, traffic)
        self._listener.link_up(handshake, found)
        older, self.sessions[peer] = self.sessions.get(peer), session
        reason = "the daemon stops"
        try:
            if older is not None:
                await older.link.close()
                await older.ended.wait()
            if self.sessions.get(peer) is session:  # else it was replaced itself meanwhile
                self._listener.session_begins(session)
                await session.run()
        except LinkClosed as error:
            reason = _clause(error)
            await self._replaced(session)
        except PeerError as error:
            reason = _clause(error)
            self._context.progress.notice(self._blamed(handshake, error))
            await self._last_word(link, reason)
        finally:
            session.fetch.end()
            session.ended.set()
            if self.sessions.get(peer) is session:
                del self.sessions[peer]
            try:
                self._listener.link_down(peer, link, reason)
            finally:
                await link.close()
                asyncio.get_running_loop().run_in_executor(None, trim_malloc)

    def _blamed(self, handshake: Handshake, error: PeerError) -> str:
        """What the operator is told of a link that ended by somebody's fault."""
        peer, words = handshake.peer, _clause(error)
        if isinstance(error, PoisonError | ProtocolError) and not isinstance(error, SealError):
            if pause := self._context.gate.offended(peer, handshake.link.proven, words):
                words += f"; {pause}"
            if self.sessions.keys() <= {peer}:
                words += ". It was the only neighbour: this peer trains alone until another comes"
        return f"{self._neighbourhood.label(peer)}: {words}."

    async def _replaced(self, session: Session) -> None:
        """A link ended: perhaps because another one to the same peer takes its place, in whose handshake we are."""
        peer = session.peer
        with suppress(TimeoutError):
            async with asyncio.timeout(REPLACED_S):
                while self.admission.awaits(peer) and self.sessions.get(peer) is session:
                    await self._neighbourhood.wait_change()

    async def _last_word(self, link: Link, reason: str) -> None:
        refusal = encode_control(pb.ControlMessage(refusal=pb.Refusal(reason=reason)))
        word = asyncio.ensure_future(link.control.send(refusal))
        await asyncio.wait({word}, timeout=FAREWELL_S)
        await link.close()
        await asyncio.wait({word})
        word.exception()

    def _run_adopted(self) -> None:
        self._exchange.adopt(self._context.run.spec)
        self._listener.run_adopted()
        for session in list(self.sessions.values()):
            # They agreed to another run spec: let them shake hands again.
            self.sessions.pop(session.peer)
            self._close_soon(session.link)

    def _broken(self, address: str, error: Exception) -> str:
        """A fault of our own ended one link: it is told, and nothing else ends."""
        log.error("the link to %s failed", address, exc_info=error)
        self._context.progress.notice(
            f"The link to {address} ended in an internal error: {type(error).__name__}: {error}. The log has the "
            "traceback: please report it."
        )
        return "an internal error"

    def _close_soon(self, link: Link) -> None:
        self._soon(link.close())

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _clause(error: PeerError) -> str:
    """An error's text as part of a sentence."""
    return str(error).rstrip(".")
