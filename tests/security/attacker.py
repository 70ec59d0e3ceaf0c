"""A member of the run that means harm: the project's own wire, certificates and all, with other words on it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from decad._proto import peer_pb2 as pb
from decad.errors import DecadError
from decad.membership.identity import Identity
from decad.trust.credentials import Credentials
from decad.wire import messages
from decad.wire.grpc_transport import GrpcTransport
from decad.wire.messages import BlockChunk, BlockHeader, decode_control, encode_control
from decad.wire.sealed import SealedTransport
from decad.wire.transport import Link

Forge = Callable[[BlockHeader | BlockChunk], bytes]
"""What the attacker sends in the place of a message that a victim sent it."""
BEACON_S = 0.2


class Victim:
    """One honest peer at the other end of a link of the attacker's."""

    def __init__(self, link: Link, hello: pb.Hello) -> None:
        self.link, self.hello = link, hello
        self.step = hello.step
        self.ended = ""
        """Why the link ended, once it has."""
        self.over = asyncio.Event()

    async def tell(self, **message: Any) -> None:
        """A control message."""
        await self.link.control.send(encode_control(pb.ControlMessage(**message)))


class Attacker:
    """One identity, linked with several peers. ``secret``: the run's, or None: an outsider."""

    def __init__(self, secret: Path | None, identity: Identity | None = None) -> None:
        self.identity = identity or Identity.generate()
        credentials = Credentials(self.identity, secret) if secret else None
        self.transport = SealedTransport(GrpcTransport(credentials))
        self.victims: list[Victim] = []
        self.claim: Callable[[int], int] = lambda step: step
        """The step that beacons claim, from the victim's."""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def link(self, address: str, peer_id: str = "") -> Victim:
        """A link with everything that an honest peer says; ``peer_id``: in the place of one's own."""
        link = await self.transport.dial(address, 5.0)
        heard = decode_control(await link.control.receive()).hello
        mine = pb.Hello()
        mine.CopyFrom(heard)
        mine.peer_id = bytes.fromhex(peer_id or self.identity.peer_id)
        mine.instance = secrets.randbits(64)
        mine.listen_port = 0
        mine.name = "attacker"
        await link.control.send(encode_control(pb.ControlMessage(hello=mine)))
        await link.control.send(encode_control(pb.ControlMessage(welcome=pb.Welcome())))
        while not (answer := decode_control(await link.control.receive())).HasField("welcome"):
            if answer.HasField("refusal"):
                raise ConnectionRefusedError(answer.refusal.reason or str(answer.refusal.fields))
        victim = Victim(link, heard)
        self.victims.append(victim)
        self._begin(self._listen(victim))
        return victim

    async def trains(self, victim: Victim) -> None:
        """Beacons and a view, as of a peer that trains with all whom it is linked with."""
        ids = [v.hello.peer_id for v in self.victims]
        members = [pb.View.Member(peer_id=peer, mixing=True) for peer in ids]
        await victim.tell(view=pb.View(members=members))
        self._begin(self._beacons(victim))

    async def echoes(self, victim: Victim, forge: Forge) -> None:
        """For each message of the victim's send one that was made of it."""
        self._begin(self._echo(victim, forge))

    def also(self, work: Awaitable[None]) -> None:
        """Do this beside, until the link ends or the attacker does."""
        self._begin(work)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.transport.close()

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, DecadError):
            raise error

    async def _listen(self, victim: Victim) -> None:
        try:
            while True:
                message = decode_control(await victim.link.control.receive())
                if message.HasField("beacon"):
                    victim.step = message.beacon.step
                elif message.HasField("refusal"):
                    victim.ended = message.refusal.reason
        except DecadError as error:
            victim.ended = victim.ended or str(error)
        finally:
            victim.over.set()

    async def _beacons(self, victim: Victim) -> None:
        sequence = 0
        while not victim.ended:
            sequence += 1
            beacon = pb.Beacon(sequence=sequence, step=self.claim(victim.step), stage=pb.STAGE_TRAINING)
            await victim.tell(beacon=beacon)
            await asyncio.sleep(BEACON_S)

    async def _echo(self, victim: Victim, forge: Forge) -> None:
        while True:
            await victim.link.blocks.send(forge(messages.parse_block(await victim.link.blocks.receive())))


def honest(part: BlockHeader | BlockChunk) -> bytes:
    """The victim's own message back to it."""
    if isinstance(part, BlockHeader):
        return messages.header(part)
    return messages.chunk(part.section, part.index, part.payload)


@asynccontextmanager
async def attacking(secret: Path | None, *addresses: str, trains: bool = True) -> AsyncIterator[Attacker]:
    """An attacker that is linked with all of these, and seems to train with them."""
    attacker = Attacker(secret)
    try:
        for address in addresses:
            await attacker.link(address)
        for victim in attacker.victims if trains else ():
            await attacker.trains(victim)
        yield attacker
    finally:
        with suppress(DecadError):
            await attacker.close()
