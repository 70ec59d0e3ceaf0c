"""Links on which nothing changes unnoticed: each message ends with a checksum over itself and its number.

TCP's own checksum of 16 bits lets one in some tens of thousands of damaged packets pass, and what a message with a
flipped bit would do to a parameter nobody would ever see. The seal is the last field of every message of
peer.proto: XXH3-64, seeded with the number of the message on its channel, so that one lost, repeated or out of
order breaks it too. A broken seal ends the link, and a new one is dialled. Against a forger there is no seal.
https://github.com/Cyan4973/xxHash
"""

from __future__ import annotations

import xxhash

from decad.errors import SealError
from decad.wire.transport import Buffer, Channel, Link, OnLink, Transport

_FIELD = b"\x79"
"""Tag of field 15, 64 bits wide."""
SEAL_BYTES = 9


class SealedChannel:
    """Seals what is sent on ``channel`` and checks what comes; ``who`` is at the other end, for people."""

    def __init__(self, channel: Channel, who: str) -> None:
        self._channel, self._who = channel, who
        self._sent = self._received = 0

    async def send(self, message: bytes) -> None:
        seal = _seal(message, self._sent)
        self._sent += 1
        await self._channel.send(b"".join((message, seal)))

    async def receive(self) -> memoryview:
        """As `Channel.receive`. Raises SealError."""
        sealed = memoryview(await self._channel.receive())
        message, seal = sealed[:-SEAL_BYTES], sealed[-SEAL_BYTES:]
        if seal != _seal(message, self._received):
            raise SealError(
                f"message {self._received} from {self._who} arrived damaged or out of its order; the link is closed "
                "and dialled again."
            )
        self._received += 1
        return message


class SealedLink:
    """A link with three sealed channels."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.dialled, self.address, self.proven = link.dialled, link.address, link.proven
        channels = (
            SealedChannel(channel, link.address) for channel in (link.control, link.blocks, link.fetch)
        )
        self.control: Channel
        self.blocks: Channel
        self.fetch: Channel
        self.control, self.blocks, self.fetch = channels

    async def close(self) -> None:
        await self._link.close()


class SealedTransport:
    """A transport whose links are sealed."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def listen(self, address: str, on_link: OnLink) -> str:
        return await self._transport.listen(address, lambda link: on_link(SealedLink(link)))

    async def dial(self, address: str, patience: float) -> Link:
        return SealedLink(await self._transport.dial(address, patience))

    async def close(self) -> None:
        await self._transport.close()


def _seal(message: Buffer, number: int) -> bytes:
    return _FIELD + xxhash.xxh3_64_intdigest(message, number).to_bytes(8, "little")
