"""Messages between an inviter and a joiner: JSON objects with a length before each, on one TLS 1.3 connection.

TLS here hides what is said and shows the inviter's certificate, made for this invitation alone; who is at the other end
is for the code to prove (`decad.trust.pake`).
"""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
import tempfile
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from decad.errors import LinkClosed, ProtocolError

MAX_MESSAGE_BYTES = 1 << 20
HANDSHAKE_S = 10.0
TALK_S = 30.0
"""For one message, or one piece of a file."""
PIECE_BYTES = 1 << 18


class Conversation:
    """One connection, either end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @property
    def other(self) -> str:
        """The address at the other end."""
        peer = self._writer.get_extra_info("peername")
        return str(peer[0]) if peer else "somebody who is gone"

    @property
    def certificate(self) -> bytes:
        """What the inviter showed, DER; at the joiner's end."""
        shown = self._writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if not isinstance(shown, bytes):
            raise ProtocolError("the inviter showed no certificate.")
        return shown

    async def say(self, message: dict[str, Any]) -> None:
        """Raises LinkClosed."""
        raw = json.dumps(message).encode()
        await self.give(len(raw).to_bytes(4, "big") + raw)

    async def begins(self, patience: float = TALK_S) -> int:
        """A message begins; returns its size. Raises ProtocolError for silence, LinkClosed."""
        return int.from_bytes(await self.take(4, patience), "big")

    async def hear(self, patience: float = TALK_S) -> dict[str, Any]:
        """The next message. Raises ProtocolError for nonsense or silence, LinkClosed."""
        return await self.rest(await self.begins(patience), patience)

    async def rest(self, size: int, patience: float = TALK_S) -> dict[str, Any]:
        """The message that began. Raises as `hear`."""
        if size > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a message of {size} bytes")
        try:
            message = json.loads(await self.take(size, patience))
        except (ValueError, RecursionError):
            raise ProtocolError("a message that is no JSON") from None
        if not isinstance(message, dict):
            raise ProtocolError("a message that is no JSON object")
        return message

    async def give(self, data: bytes) -> None:
        """Bytes of a file, or a packed message. Raises ProtocolError when the other end takes nothing, LinkClosed."""
        try:
            async with asyncio.timeout(TALK_S):
                self._writer.write(data)
                await self._writer.drain()
        except TimeoutError:
            raise ProtocolError(f"it took nothing in for {TALK_S:.0f} s") from None
        except OSError:
            raise LinkClosed("the connection broke.") from None

    async def take(self, size: int, patience: float = TALK_S) -> bytes:
        """So many bytes. Raises ProtocolError for silence, LinkClosed."""
        try:
            async with asyncio.timeout(patience):
                return await self._reader.readexactly(size)
        except TimeoutError:
            raise ProtocolError(f"silence for {patience:.0f} s") from None
        except (asyncio.IncompleteReadError, OSError):
            raise LinkClosed("the connection broke.") from None

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()


def field(message: dict[str, Any], key: str) -> bytes:
    """Bytes that a message holds as hex; none if they are not there, or make no sense."""
    value = message.get(key)
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return b""


def server_tls() -> tuple[ssl.SSLContext, bytes]:
    """For the inviter: a context with a key that was made just now and is nowhere else, and its certificate, DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "decad invitation")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory() as folder:  # ssl takes files alone; mkdtemp makes it the user's own
        file = Path(folder) / "key.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(file)
    return context, certificate.public_bytes(serialization.Encoding.DER)


def client_tls() -> ssl.SSLContext:
    """For the joiner: any certificate will do, since the code binds the one that was shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
