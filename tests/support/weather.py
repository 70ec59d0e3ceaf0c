"""A network that is not kind: the memory network, with messages lost, repeated, late, out of order, or damaged.

The transport's contract (decad/wire/transport.py) promises that none of this happens but delay and links that break.
It happens below the seals (decad/wire/sealed.py), which turn it into a link that breaks.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from dataclasses import dataclass

from decad.errors import LinkClosed
from decad.wire.memory import MemoryLink, MemoryNetwork, MemoryTransport
from decad.wire.transport import Buffer, Channel, OnLink
from support.virtual import PROCESS

CHANNELS = ("control", "blocks", "fetch")
_DUE = struct.Struct("<d")


@dataclass(frozen=True)
class Weather:
    """What happens to messages from one host to another. Probabilities are of each message; times in seconds."""

    latency_s: float = 0.001
    jitter_s: float = 0.0
    """Up to so much more."""
    loss: float = 0.0
    repeat: float = 0.0
    swap: float = 0.0
    """Sent after the next one of its channel, or never if there is none."""
    flip: float = 0.0
    """One bit of it is turned over."""
    cut: float = 0.0
    """The link breaks with it."""
    channels: tuple[str, ...] = CHANNELS
    """To which all but the times applies."""


class Skies(MemoryNetwork):
    """A memory network with weather by direction. ``seed``: of all that is left to chance."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(f"weather {seed}")
        self.usual = Weather()
        self.weather: dict[tuple[str, str], Weather] = {}
        """(from host, to host) -> other than usual."""
        self.counts: Counter[str] = Counter()
        """Messages that met each fault."""

    def between(self, here: str, there: str) -> Weather:
        return self.weather.get((here, there), self.usual)


class WeatheredTransport(MemoryTransport):
    """`MemoryTransport` under ``skies``; accepted links are served by the process that listens."""

    def __init__(self, skies: Skies, host: str) -> None:
        super().__init__(skies, host)
        self._skies = skies

    async def listen(self, address: str, on_link: OnLink) -> str:
        process = PROCESS.get()

        async def serve(link: object) -> None:
            if process is not None:
                process.adopt_current_task()
            assert isinstance(link, MemoryLink)
            await on_link(WeatheredLink(self._skies, link))

        return await super().listen(address, serve)

    async def dial(self, address: str, patience: float) -> WeatheredLink:  # type: ignore[override]
        await asyncio.sleep(self._skies.usual.latency_s)
        return WeatheredLink(self._skies, await super().dial(address, patience))


class WeatheredLink:
    """One end of a link."""

    def __init__(self, skies: Skies, link: MemoryLink) -> None:
        self.dialled, self.address, self.proven = link.dialled, link.address, link.proven
        self._link = link
        self.control: Channel = _WeatheredChannel(skies, link, "control", link.control)
        self.blocks: Channel = _WeatheredChannel(skies, link, "blocks", link.blocks)
        self.fetch: Channel = _WeatheredChannel(skies, link, "fetch", link.fetch)

    async def close(self) -> None:
        await self._link.close()


class _WeatheredChannel:
    """Every message travels with the time at which it is due."""

    def __init__(self, skies: Skies, link: MemoryLink, name: str, channel: Channel) -> None:
        self._skies, self._link, self._name, self._channel = skies, link, name, channel
        self._held: bytes | None = None

    async def send(self, message: bytes) -> None:
        skies, link = self._skies, self._link
        weather, chance = skies.between(link.owner.host, link.far.owner.host), skies.random
        due = asyncio.get_running_loop().time() + weather.latency_s
        if weather.jitter_s:
            due += chance.uniform(0, weather.jitter_s)
        parts = [message]
        if self._name in weather.channels:
            if self._happens("cut", weather.cut):
                link.lose("the network broke")
                raise LinkClosed(link.ended)
            if self._happens("loss", weather.loss):
                parts = []
            elif self._happens("flip", weather.flip):
                parts = [_flipped(message, chance.randrange(8 * len(message)))]
            elif self._happens("repeat", weather.repeat):
                parts = [message, message]
            elif self._held is None and self._happens("swap", weather.swap):
                self._held, parts = message, []
            if parts and self._held is not None:
                parts, self._held = [*parts, self._held], None
        for part in parts:
            await self._channel.send(_DUE.pack(due) + part)

    async def receive(self) -> Buffer:
        raw = await self._channel.receive()
        wait = _DUE.unpack_from(raw)[0] - asyncio.get_running_loop().time()
        if wait > 0:
            await asyncio.sleep(wait)
        return raw[_DUE.size :]

    def _happens(self, what: str, probability: float) -> bool:
        if not probability or self._skies.random.random() >= probability:
            return False
        self._skies.counts[what] += 1
        return True


def _flipped(message: bytes, bit: int) -> bytes:
    damaged = bytearray(message)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)
