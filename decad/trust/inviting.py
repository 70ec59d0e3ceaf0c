"""The inviter's end: one joiner gets in with the code, once, within ten minutes and three tries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from decad.config import MAX_NAME_CHARS
from decad.errors import LinkClosed, NetworkError, PeerError, ProtocolError
from decad.trust import proof
from decad.trust.code import new_code
from decad.trust.conversation import HANDSHAKE_S, PIECE_BYTES, TALK_S, Conversation, field, server_tls
from decad.trust.handover import Handover, ModelFile
from decad.trust.pake import Agreed, Pake, WrongCodeError
from decad.wire.reasons import printable
from decad.wire.tls import Statement

VALID_S = 600.0
MOST_TRIES = 3
MOST_CONNECTIONS = 8
FAREWELL_S = 2.0
"""How long connections may take to end when the invitation has."""
ARGUED_S = 1.0
"""How long the reason of a refusal may take to go out."""


class Tries:
    """How often the code may still be tried: pure, and in memory only."""

    def __init__(self) -> None:
        self.left = MOST_TRIES
        self.used = False

    def begin(self) -> None:
        """Somebody tries: it counts, whatever comes of it. Raises ProtocolError when there is no try left."""
        if self.used or not self.left:
            raise ProtocolError("this invitation is used up")
        self.left -= 1

    def succeed(self) -> None:
        """It was the right one. Raises ProtocolError if another was as well, a moment earlier."""
        if self.used:
            raise ProtocolError("this invitation is used up")
        self.used = True


class Guest(NamedTuple):
    """Who has the code."""

    peer: str
    """Its proved id."""
    name: str
    """As it calls itself."""
    address: str
    words: str
    """That the other screen shows too."""


class Inviter:
    """Waits for one joiner.

    ``agrees``: the operator's answer to a guest; ``admit``: called before the handover is given, with the guest's id;
    ``tell`` hears of each try that failed, and of what the guest fetches.
    """

    def __init__(
        self,
        handover: Handover,
        directory: Path | None,
        agrees: Callable[[Guest], Awaitable[bool]],
        admit: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        """``directory``: of the base model."""
        self.code = new_code()
        self._handover, self._directory = handover, directory
        self._agrees, self._admit, self._tell = agrees, admit, tell
        self._tries = Tries()
        self._ticket = b""
        self._handlers: set[asyncio.Task[Any]] = set()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._extend()
        self._tls, self._certificate = server_tls()

    async def listen(self, host: str, port: int) -> int:
        """Accept joiners; returns the port. Raises NetworkError."""
        try:
            self._server = await asyncio.start_server(
                self._arrived, host, port, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_S, limit=PIECE_BYTES
            )
        except OSError as error:
            raise NetworkError(f"Nobody can be invited at {host}:{port}: {error.strerror}.") from None
        return int(self._server.sockets[0].getsockname()[1])

    async def run(self) -> None:
        """Return when the guest has everything. Raises PeerError when the invitation came to nothing."""
        try:
            while not self._ended.done():
                left = self._until - asyncio.get_running_loop().time()
                if left <= 0:
                    self._end(PeerError(self._in_vain()))
                await asyncio.wait({self._ended}, timeout=max(0.0, left))
            self._ended.result()
        finally:
            self._server.close()
            if self._handlers:
                await asyncio.wait(self._handlers, timeout=FAREWELL_S)

    def _in_vain(self) -> str:
        minutes = f"{VALID_S / 60:.0f} minutes"
        if self._ticket:
            return f"The new member fetched nothing for {minutes}: it has the run's secret, but not all of the model."
        return f"Nobody came within {minutes}: the code is void."

    def _extend(self) -> None:
        self._until = asyncio.get_running_loop().time() + VALID_S

    async def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = Conversation(reader, writer)
        task = asyncio.current_task()
        if task is None or len(self._handlers) >= MOST_CONNECTIONS or self._ended.done():
            await conversation.close()
            return
        self._handlers.add(task)
        try:
            await self._converse(conversation)
        except LinkClosed:
            pass
        except PeerError as error:
            await self._argue(conversation, error)
        finally:
            await conversation.close()
            self._handlers.discard(task)

    async def _argue(self, conversation: Conversation, error: PeerError) -> None:
        try:
            async with asyncio.timeout(ARGUED_S):
                await conversation.say({"error": str(error)})
        except (TimeoutError, PeerError):
            pass

    async def _converse(self, conversation: Conversation) -> None:
        size = await conversation.begins()  # who connects and says nothing has not tried anything
        if (returning := self._ticket) and field(
            hello := await conversation.rest(size), "ticket"
        ) == returning:
            await self._serve(conversation)
            return
        self._tries.begin()
        try:
            hello = await conversation.rest(size)
            agreed, peer = await self._authenticate(conversation, hello)
        except PeerError as error:
            self._failed(conversation, error)
            raise
        self._tries.succeed()
        name = hello.get("name")
        shown = printable(name)[:MAX_NAME_CHARS] if isinstance(name, str) else ""
        if not await self._agrees(Guest(peer, shown, conversation.other, agreed.words)):
            self._end(PeerError("You said no: nothing was handed over, and the code is void."))
            raise PeerError("the inviter said no")
        self._admit(peer)
        self._ticket = agreed.ticket
        await self._serve(conversation)

    async def _authenticate(self, conversation: Conversation, hello: dict[str, Any]) -> tuple[Agreed, str]:
        key = field(hello, "key")
        pake = Pake(self.code, False, self._certificate, key)
        agreed = pake.finish(field(hello, "pake"))
        await conversation.say({"pake": pake.message.hex()})
        answer = await conversation.hear()
        agreed.check("joiner", field(answer, "proof"))
        try:
            peer = proof.signer_of(
                Statement(key, field(answer, "signature")), [b"decad join 1", agreed.transcript]
            )
        except proof.NotProvedError as error:
            raise WrongCodeError(f"an identity that is not proved: {error}") from None
        await conversation.say({"proof": agreed.proof("inviter").hex()})
        return agreed, peer

    async def _serve(self, conversation: Conversation) -> None:
        await conversation.say({"handover": self._handover.model_dump(mode="json")})
        files = {file.name: file for file in self._handover.model}
        while True:
            wish = await conversation.hear(patience=max(TALK_S, VALID_S))
            if wish.get("done"):
                self._end(None)
                return
            name, offset = wish.get("get"), wish.get("offset")
            if not isinstance(name, str) or name not in files or not isinstance(offset, int) or offset < 0:
                raise ProtocolError("a wish for a file that was not offered")
            self._tell(f"sending {name}, {(files[name].size - offset) / 1e6:.0f} MB")
            await self._send(conversation, files[name], offset)

    async def _send(self, conversation: Conversation, file: ModelFile, offset: int) -> None:
        assert self._directory is not None
        left = file.size - offset
        with (self._directory / file.name).open("rb") as source:
            source.seek(offset)
            while left > 0:
                piece = await asyncio.to_thread(source.read, min(PIECE_BYTES, left))
                if not piece:
                    raise PeerError(f"{file.name} has changed since it was offered")
                await conversation.give(piece)
                self._extend()
                left -= len(piece)

    def _failed(self, conversation: Conversation, error: PeerError) -> None:
        if self._tries.used:
            return
        left = self._tries.left
        words = f"{left} left" if left else "the code is void"
        self._tell(f"a try from {conversation.other} failed: {str(error).rstrip('.')} ({words})")
        if not left:
            self._end(PeerError(f"The code is void after {MOST_TRIES} tries that failed. Invite again."))

    def _end(self, error: PeerError | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
