"""The joiner's end: with the code it becomes a member, and gets the base model."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from decad.config import split_address
from decad.errors import LinkClosed, NetworkError, PeerError, ProtocolError, StateError
from decad.membership.identity import Identity
from decad.state.files import make_directory
from decad.trust import proof
from decad.trust.conversation import HANDSHAKE_S, PIECE_BYTES, TALK_S, Conversation, client_tls, field
from decad.trust.handover import Handover, ModelFile, Receiving
from decad.trust.inviting import VALID_S
from decad.trust.pake import Agreed, Pake, WrongCodeError
from decad.wire.reasons import printable

AGAIN_S = 2.0
"""Between tries to come back when the connection broke."""
COME_BACK_TIMES = 30


class Joiner:
    """One try to join at ``address``, host:port of `decad invite`."""

    def __init__(self, address: str, identity: Identity, name: str) -> None:
        self._host, self._port = split_address(address)
        self._address, self._identity, self._name = address, identity, name
        self._certificate = b""
        self._ticket = b""
        self._conversation: Conversation | None = None

    async def prove(self, code: str) -> Agreed:
        """Show that one has the code, and see that the other end has it. Raises PeerError, NetworkError."""
        conversation = await self._connect()
        self._certificate = conversation.certificate
        key = self._identity.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        pake = Pake(code, True, self._certificate, key)
        await conversation.say({"pake": pake.message.hex(), "key": key.hex(), "name": self._name})
        agreed = pake.finish(field(await self._hear(conversation), "pake"))
        signed = proof.sign(self._identity, [b"decad join 1", agreed.transcript])
        await conversation.say({"proof": agreed.proof("joiner").hex(), "signature": signed.signature.hex()})
        try:
            agreed.check("inviter", field(await self._hear(conversation), "proof"))
        except WrongCodeError:
            raise PeerError(
                f"What answers at {self._address} is not the inviter: it does not have the code. Nothing was given "
                "away. Compare address and code with the inviter's screen, and ask for another invitation."
            ) from None
        self._ticket = agreed.ticket
        return agreed

    async def handover(self) -> Handover:
        """Wait for the inviter's yes. Raises PeerError, NetworkError."""
        assert self._conversation is not None
        return _read(await self._hear(self._conversation, VALID_S))

    async def fetch(self, handover: Handover, directory: Path, came: Callable[[str, int], None]) -> int:
        """Fetch what the model lacks in ``directory``; returns the bytes that came. ``came`` hears of each piece.

        Comes back by itself while the inviter waits. Raises PeerError, NetworkError, StateError.
        """
        receiving = await asyncio.to_thread(Receiving, directory, handover.model)
        wanted = sum(file.size - receiving.taken(file) for file in receiving.missing)
        failures = total = 0
        try:
            if receiving.missing:
                make_directory(directory)
                if (free := shutil.disk_usage(directory).free) < wanted:
                    raise StateError(
                        f"The model takes {wanted / 1e6:.0f} MB more, and {directory} has room for {free / 1e6:.0f}. "
                        "Make room, or name another place with --model; what came is kept."
                    )
            while receiving.missing:
                file = receiving.missing[0]
                try:
                    if self._conversation is None:
                        await self._come_back()
                    total += await self._fetch(receiving, file, came)
                except (LinkClosed, NetworkError):
                    self._conversation = None
                    failures += 1
                    if failures > COME_BACK_TIMES:
                        raise
                    await asyncio.sleep(AGAIN_S)
                    continue
                receiving.missing.pop(0)
                failures = 0
        except OSError as error:
            raise StateError(
                f"The model cannot be kept in {directory}: {error.strerror}. What came is kept: join again, with "
                "another invitation."
            ) from None
        if self._conversation is not None:
            await self._conversation.say({"done": True})
        return total

    async def close(self) -> None:
        if self._conversation is not None:
            await self._conversation.close()

    async def _fetch(self, receiving: Receiving, file: ModelFile, came: Callable[[str, int], None]) -> int:
        assert self._conversation is not None
        offset = receiving.taken(file)
        await self._conversation.say({"get": file.name, "offset": offset})
        left = file.size - offset
        with receiving.part(file).open("ab" if offset else "wb") as part:
            while left:
                piece = await self._conversation.take(min(PIECE_BYTES, left))
                await asyncio.to_thread(part.write, piece)
                left -= len(piece)
                came(file.name, len(piece))
        await asyncio.to_thread(receiving.finish, file)
        return file.size - offset

    async def _come_back(self) -> None:
        conversation = await self._connect()
        if conversation.certificate != self._certificate:
            raise PeerError(f"Something else answers at {self._address} now. Ask for another invitation.")
        await conversation.say({"ticket": self._ticket.hex()})
        _read(await self._hear(conversation))

    async def _connect(self) -> Conversation:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, ssl=client_tls(), server_hostname="", limit=PIECE_BYTES
                )
        except (OSError, TimeoutError) as error:
            why = str(error.strerror) if isinstance(error, OSError) and error.strerror else "no answer"
            raise NetworkError(
                f"Nobody invites at {self._address}: {why}. Is `decad invite` waiting there, and the address right?"
            ) from None
        self._conversation = Conversation(reader, writer)
        return self._conversation

    async def _hear(self, conversation: Conversation, patience: float = TALK_S) -> dict[str, Any]:
        try:
            message = await conversation.hear(patience)
        except LinkClosed:
            raise LinkClosed(f"The inviter at {self._address} hung up.") from None
        if "error" in message:
            raise PeerError(f"The inviter at {self._address} refuses: {printable(str(message['error']))}.")
        return message


def _read(message: dict[str, Any]) -> Handover:
    try:
        return Handover.model_validate(message.get("handover"))
    except ValidationError:
        raise ProtocolError(
            "What the inviter gave makes no sense. Do both ends run the same decad?"
        ) from None
