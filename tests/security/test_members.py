"""What a member that means harm can do to three others that train: they go on as if it were not there."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from decad._proto import peer_pb2 as pb
from decad.core.absence import LEAST_S
from decad.core.section import Section
from decad.errors import DecadError
from decad.membership.identity import Identity
from decad.wire import messages
from decad.wire.messages import BlockChunk, BlockHeader
from security.attacker import Attacker, Victim, attacking
from security.attacker import honest as echoed
from security.conftest import BEFORE_S, DURING_S, LEAST_RATE, SETTLE_S, Honest, Row

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

Forged = BlockHeader | BlockChunk


Values = NDArray[np.float32]
Change = Callable[[Values], Values]


def with_values(change: Change, section: Section = Section.BLOCK) -> Callable[[Forged], bytes]:
    """The victim's own block, changed."""

    def forge(part: Forged) -> bytes:
        if isinstance(part, BlockHeader) or part.section is not section:
            return echoed(part)
        values = np.frombuffer(part.payload, dtype=np.float32)
        return messages.chunk(
            part.section, part.index, memoryview(change(values).astype(np.float32).tobytes())
        )

    return forge


VALUES: dict[str, Change] = {
    "NaN": lambda values: values * math.nan,
    "1e30": lambda values: np.full_like(values, 1e30),
    "3e38": lambda values: np.full_like(values, 3e38),
    "1,000 times its values": lambda values: 1000 * values,
    "its values turned round": lambda values: -values,
    "too few values": lambda values: values[:-1],
}


async def measured(honest: Honest, row: Row, before: float, least: float = LEAST_RATE) -> None:
    row.rate = min(1.0, await honest.rate(DURING_S) / before)
    assert row.rate >= least, f"{row.rate:.2f} of the step rate"


def unharmed(honest: Honest, losses: list[float]) -> None:
    for was, now in zip(losses, honest.losses(), strict=True):
        assert math.isfinite(now)
        assert now < was + 0.5


@pytest.mark.parametrize("what", VALUES)
async def test_values(honest: Honest, row: Row, what: str) -> None:
    """A member sends a block of {what}
    Refused or taken back, the sender named and kept away; the others' loss and rate as before
    """
    honest.mix_again()
    before, losses = await honest.rate(BEFORE_S), honest.losses()
    async with attacking(honest.secret, *honest.addresses) as attacker:
        for victim in attacker.victims:
            await attacker.echoes(victim, with_values(VALUES[what]))
        await measured(honest, row, before)
        ended = [victim.ended for victim in attacker.victims]
    unharmed(honest, losses)
    assert all(ended), ended
    kept = honest.said(attacker.identity.peer_id[:8])
    assert kept
    row.seen = f"{len(ended)} links ended: {ended[0][:60]}"


async def test_row_means(honest: Honest, row: Row) -> None:
    """A member sends row means of 3e38
    Refused, the sender named; the others' loss and rate as before
    """
    honest.mix_again()
    before, losses = await honest.rate(BEFORE_S), honest.losses()
    async with attacking(honest.secret, *honest.addresses) as attacker:
        for victim in attacker.victims:
            await attacker.echoes(victim, with_values(lambda v: np.full_like(v, 3e38), Section.SECOND))
        await measured(honest, row, before)
        ended = [victim.ended for victim in attacker.victims]
    unharmed(honest, losses)
    assert all(ended), ended
    row.seen = f"{len(ended)} links ended: {ended[0][:60]}"


HEADERS: dict[str, Callable[[BlockHeader], BlockHeader]] = {
    "another block's shape": lambda h: h._replace(block=h.block + 1),
    "another run's number": lambda h: h._replace(run=h.run ^ 1),
    "2^40 updates": lambda h: h._replace(updates=1 << 30),
    "too many chunks": lambda h: h._replace(chunks=h.chunks + 1),
    "the wrong extents": lambda h: h._replace(extents=tuple((s, n + 1) for s, n in h.extents)),
}


@pytest.mark.parametrize("what", HEADERS)
async def test_headers(honest: Honest, row: Row, what: str) -> None:
    """A member announces {what}
    Refused, the sender named; rate as before
    """
    honest.mix_again()
    before = await honest.rate(BEFORE_S)

    def forge(part: Forged) -> bytes:
        return messages.header(HEADERS[what](part)) if isinstance(part, BlockHeader) else echoed(part)

    async with attacking(honest.secret, *honest.addresses) as attacker:
        for victim in attacker.victims:
            await attacker.echoes(victim, forge)
        await measured(honest, row, before)
        ended = [victim.ended for victim in attacker.victims]
    assert all(ended), ended
    row.seen = f"{len(ended)} links ended: {ended[0][:60]}"


@pytest.mark.parametrize("claim", ["10^12", "2^40", "5 steps ahead", "a step of long ago"])
async def test_claimed_steps(honest: Honest, row: Row, claim: str) -> None:
    """A member's beacons claim {claim}
    Nobody follows; rate as before
    """
    claims: dict[str, Callable[[int], int]] = {
        "10^12": lambda step: 10**12,
        "2^40": lambda step: 1 << 40,
        "5 steps ahead": lambda step: step + 5,
        "a step of long ago": lambda step: max(0, step - 1000),
    }
    honest.mix_again()
    before, steps, begun = await honest.rate(BEFORE_S), honest.steps(), time.monotonic()
    async with attacking(honest.secret, *honest.addresses, trains=False) as attacker:
        attacker.claim = claims[claim]
        for victim in attacker.victims:
            await attacker.trains(victim)
        await asyncio.sleep(SETTLE_S)
        row.rate = min(1.0, await honest.rate(DURING_S) / before)
    now, most = honest.steps(), 1.5 * before * (time.monotonic() - begun)
    assert all(0 < after - was < most + 20 for was, after in zip(steps, now, strict=True)), (steps, now, most)
    assert row.rate >= LEAST_RATE
    row.seen = f"they took {now[0] - steps[0]} steps, as before"


async def test_a_step_beyond_all(honest: Honest, row: Row) -> None:
    """A member's beacon claims step 2^64 - 1
    The link ends, the sender named; rate as before
    """
    honest.mix_again()
    before = await honest.rate(BEFORE_S)
    async with attacking(honest.secret, *honest.addresses, trains=False) as attacker:
        for victim in attacker.victims:
            await victim.tell(beacon=pb.Beacon(sequence=1, step=2**64 - 1, stage=pb.STAGE_TRAINING))
        await measured(honest, row, before)
        ended = [victim.ended for victim in attacker.victims]
    assert all(ended)
    row.seen = f"{len(ended)} links ended: {ended[0][:60]}"


Does = Callable[[Victim], Awaitable[None]]


async def ends_late(victim: Victim) -> None:
    """Begin each message at once, and end it when the victim has gone on."""
    held: list[bytes] = []
    while True:
        part = messages.parse_block(await victim.link.blocks.receive())
        if isinstance(part, BlockHeader):
            for message in held:
                await victim.link.blocks.send(message)
            held = []
            await victim.link.blocks.send(messages.header(part))
        else:
            held.append(echoed(part))


async def only_headers(victim: Victim) -> None:
    while True:
        part = messages.parse_block(await victim.link.blocks.receive())
        if isinstance(part, BlockHeader):
            await victim.link.blocks.send(messages.header(part))


async def reads(victim: Victim) -> None:
    while True:
        await victim.link.blocks.receive()


async def nothing(victim: Victim) -> None:
    """Not even read."""


DELAYS: dict[str, Does] = {
    "ends each message when the others have gone on": ends_late,
    "sends headers without blocks": only_headers,
    "sends no block": reads,
    "never reads": nothing,
}


EXPECTED = "hardly counted on; rate as before"


@pytest.mark.parametrize(
    ("what", "many", "expected"),
    [
        ("ends each message when the others have gone on", 1, "rate as before"),
        ("ends each message when the others have gone on", 40, "traffic of 40 members; half the rate"),
        *((what, many, EXPECTED) for what in DELAYS if DELAYS[what] is not ends_late for many in (1, 40)),
    ],
)
async def test_delays(honest: Honest, row: Row, what: str, many: int, expected: str) -> None:
    """A member with {many} identities seems to train, and {what}
    Missing, then not waited for; from then on {expected}
    """
    honest.mix_again()
    before = await honest.rate(BEFORE_S)
    attackers = [Attacker(honest.secret) for _ in range(many)]
    victims = honest.addresses if many == 1 else honest.addresses[:1]
    try:
        for attacker in attackers:
            for address in victims:
                victim = await attacker.link(address)
                await attacker.trains(victim)
                attacker.also(DELAYS[what](victim))
        await asyncio.sleep(SETTLE_S if DELAYS[what] is ends_late else LEAST_S + SETTLE_S)
        await measured(honest, row, before, 0.5 if "traffic" in expected else LEAST_RATE)
    finally:
        for attacker in attackers:
            await attacker.close()
    row.seen = "the others go on"


FLOODS: dict[str, Callable[[int], pb.ControlMessage]] = {
    "beacons": lambda n: pb.ControlMessage(beacon=pb.Beacon(sequence=n, step=1, stage=pb.STAGE_AWAY)),
    "asks": lambda n: pb.ControlMessage(ask=pb.Ask(phase=n)),
    "views": lambda n: pb.ControlMessage(view=pb.View()),
    "nonsense": lambda n: pb.ControlMessage(duplicate_identity=pb.DuplicateIdentity()),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_floods(honest: Honest, row: Row, what: str) -> None:
    """A member sends {what} as fast as the line goes
    The link ends, the sender named and kept away; rate as before
    """
    honest.mix_again()
    before = await honest.rate(BEFORE_S)
    async with attacking(honest.secret, *honest.addresses, trains=False) as attacker:

        async def flood(victim: Victim) -> None:
            for number in range(100_000):
                await victim.link.control.send(messages.encode_control(FLOODS[what](number)))

        for victim in attacker.victims:
            attacker.also(flood(victim))
        await measured(honest, row, before)
        ended = [victim.ended for victim in attacker.victims]
        assert all(ended)
    again = Attacker(honest.secret, attacker.identity)
    with pytest.raises((ConnectionRefusedError, DecadError)) as refused:
        await again.link(honest.addresses[0])
    await again.close()
    assert "kept away" in str(refused.value)
    row.seen = f"{len(ended)} links ended: {ended[0][:60]}"


@pytest.mark.parametrize("members", [1024, 100_000])
async def test_views(honest: Honest, row: Row, members: int) -> None:
    """A member's view names {members} invented peers
    At most four of them are dialled at a time, or the view is refused; rate as before
    """
    honest.mix_again()
    before = await honest.rate(BEFORE_S)
    reached, writers = 0, list[asyncio.StreamWriter]()

    def dialled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal reached
        reached += 1
        writers.append(writer)

    server = await asyncio.start_server(dialled, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with attacking(honest.secret, honest.addresses[0], trains=False) as attacker:
        places = (
            (n.to_bytes(32, "big"), f"127.0.{n >> 8 & 255}.{n & 255}:{port}") for n in range(1, members)
        )
        view = pb.View(members=[pb.View.Member(peer_id=peer, address=place) for peer, place in places])
        try:
            await attacker.victims[0].tell(view=view)
        except Exception as error:
            row.seen = f"not sent: {error}"
        await measured(honest, row, before)
    server.close()
    for writer in writers:
        writer.close()
    assert reached <= 16
    row.seen = f"{reached} of the addresses were dialled within {DURING_S:.0f} s"


async def test_fetches_that_are_never_read(honest: Honest, row: Row) -> None:
    """10 identities on 40 links ask for blocks and never read
    No more than a few copies in memory; rate as before
    """
    honest.mix_again()
    before, memory = await honest.rate(BEFORE_S), honest.memory()
    attackers = [Attacker(honest.secret) for _ in range(10)]
    links = 0
    try:
        for attacker in attackers:
            for _ in range(4):
                try:
                    victim = await attacker.link(honest.addresses[0])
                except (ConnectionRefusedError, DecadError):
                    continue
                links += 1
                request = pb.FetchMessage(request=pb.FetchRequest(block=1))
                for _ in range(2):
                    await victim.link.fetch.send(request.SerializeToString())
        await measured(honest, row, before)
        grown = honest.memory() - memory
    finally:
        for attacker in attackers:
            await attacker.close()
    assert grown < 100e6
    row.seen = f"{links} links; memory grew by {grown / 1e6:.0f} MB"


async def test_half_open(honest: Honest, row: Row) -> None:
    """50 identities open 200 links and never say Hello
    A newcomer gets in within a second; rate as before
    """
    honest.mix_again()
    before = await honest.rate(BEFORE_S)
    attackers = [Attacker(honest.secret) for _ in range(50)]
    opened = 0
    try:
        for attacker in attackers:
            for _ in range(4):
                try:
                    await attacker.transport.dial(honest.addresses[0], 2.0)
                    opened += 1
                except DecadError:
                    pass
        begun = time.monotonic()
        newcomer = Attacker(honest.secret)
        await newcomer.link(honest.addresses[0])
        took = time.monotonic() - begun
        await newcomer.close()
        await measured(honest, row, before)
    finally:
        for attacker in attackers:
            await attacker.close()
    assert took < 2.0
    row.seen = f"{opened} were opened; a newcomer got in after {took:.2f} s"


async def test_identity_theft(honest: Honest, row: Row) -> None:
    """A member says Hello with a living peer's id
    Refused; the living peer's links stay
    """
    honest.mix_again()
    before, taken = await honest.rate(BEFORE_S), honest.daemons[1].status().peer_id
    refused = 0
    for _ in range(13):
        thief = Attacker(honest.secret)
        try:
            await thief.link(honest.addresses[0], peer_id=taken)
        except (ConnectionRefusedError, DecadError):
            refused += 1
        await thief.close()
    await measured(honest, row, before)
    assert refused == 13
    row.seen = f"{refused} of 13 refused"


async def test_random_bytes(honest: Honest, row: Row) -> None:
    """Members send random and damaged messages on all channels, 200 links
    Each link ends; no daemon does; rate as before
    """
    honest.mix_again()
    before = await honest.rate(BEFORE_S)
    chance = np.random.default_rng(0)

    async def harm() -> int:
        ended = 0
        for number in range(200):
            attacker = Attacker(honest.secret)
            try:
                victim = await attacker.link(honest.addresses[number % 3])
                channel = (victim.link.control, victim.link.blocks, victim.link.fetch)[number % 3]
                await channel.send(chance.bytes(int(chance.integers(1, 200))))
                async with asyncio.timeout(5):
                    await victim.over.wait()
                ended += 1
            except (DecadError, ConnectionRefusedError):
                ended += 1
            finally:
                await attacker.close()
            await asyncio.sleep(0.05)  # this process is not to take the processors from the daemons
        return ended

    async with asyncio.TaskGroup() as group:
        harming = group.create_task(harm())
        await measured(honest, row, before)
    assert harming.result() == 200
    row.seen = "200 links ended"


async def test_own_identity_anew(honest: Honest, row: Row) -> None:
    """A member goes by the victim's own id
    Refused
    """
    own = honest.daemons[0].status().peer_id
    thief = Attacker(honest.secret, Identity.generate())
    with pytest.raises((ConnectionRefusedError, DecadError)) as refused:
        await thief.link(honest.addresses[0], peer_id=own)
    await thief.close()
    row.seen = str(refused.value)[:70]
