"""What trust costs: TLS against plain links, and the bounds on neighbours' values against plain mixing.

    python tests/bench/bench_trust.py

Prints ratios of one run side by side; nothing is asserted. Links are over loopback with both ends in one process, so
the processor is the limit.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import uvloop
from torch import Tensor

from decad.core.clipping import Clipping, StepClipping
from decad.core.coding import Fp32Decoder
from decad.core.mixing import Mixer
from decad.core.robust import Collected
from decad.core.section import Section
from decad.core.spoiling import Distances
from decad.membership.identity import Identity
from decad.trust.credentials import Credentials
from decad.trust.secret import RunSecrets, new_secret, write_secrets
from decad.wire.grpc_transport import GrpcTransport
from decad.wire.transport import Link

MESSAGE, MESSAGES = 1 << 20, 192
ELEMENTS, CHUNK, NEIGHBOURS = 4_000_000, 262_144, 4
ROUNDS = 15


async def carried(secret: Path | None) -> tuple[float, float]:
    """Wall and CPU seconds for `MESSAGES` of `MESSAGE` bytes over one link."""
    arrived = asyncio.Event()

    async def take(link: Link) -> None:
        for _ in range(MESSAGES):
            await link.blocks.receive()
        arrived.set()
        await asyncio.sleep(3600)

    ends = [GrpcTransport(Credentials(Identity.generate(), secret) if secret else None) for _ in range(2)]
    address = await ends[0].listen("127.0.0.1:0", take)
    link = await ends[1].dial(address, 5.0)
    payload = bytes(MESSAGE)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(MESSAGES):
        await link.blocks.send(payload)
    await arrived.wait()
    spent = time.perf_counter() - wall, time.process_time() - cpu
    for end in ends:
        await end.close()
    return spent


def mixed(
    others: list[Tensor],
    own: Tensor,
    rule: Callable[[], StepClipping | Collected | None] = lambda: None,
    looks: bool = False,
) -> float:
    """CPU seconds of one step's mixing."""
    accumulator, public = torch.zeros(ELEMENTS), {Section.BLOCK: own}
    begun = time.process_time()
    mixer, distances = Mixer({Section.BLOCK: accumulator}, CHUNK, public, rule()), Distances(3)
    for place, start in enumerate(range(0, ELEMENTS, CHUNK)):
        for name, other in enumerate(others):
            values = other[start : start + CHUNK]
            mixer.add(str(name), Section.BLOCK, place, 0.2, values)
            if looks:
                distances.add(str(name), start, values, own)
    mixer.finish()
    return time.process_time() - begun


def checked(others: list[Tensor]) -> float:
    """CPU seconds of taking one step's messages in: whether values are finite and not absurd."""
    sizes, spent = {Section.BLOCK: ELEMENTS}, 0.0
    for other in others:
        decoder = Fp32Decoder(sizes, {Section.BLOCK: 1e6})
        decoder.begin(0, full=True)
        payloads = [part.numpy().tobytes() for part in torch.split(other, decoder.chunk_elements)]
        begun = time.process_time()
        for chunk, payload in enumerate(payloads):
            decoder.decode(Section.BLOCK, chunk, payload)
        spent += time.process_time() - begun
    return spent


async def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "secret"
        write_secrets(secret, RunSecrets((new_secret(),), ()), replace=False)
        pairs = [(await carried(None), await carried(secret)) for _ in range(ROUNDS)]
    for what, part in (("wall", 0), ("CPU of both ends", 1)):
        plain, tls = (median(pair[end][part] for pair in pairs) for end in (0, 1))
        print(
            f"TLS / plain, {what}: {tls / plain:.2f}  ({MESSAGES / tls:.0f} and {MESSAGES / plain:.0f} MiB/s)"
        )
    own = torch.randn(ELEMENTS)
    others = [own + 1e-3 * torch.randn(ELEMENTS) for _ in range(NEIGHBOURS)]
    clipping = Clipping()
    rules: dict[str, Callable[[], float]] = {
        "plain": lambda: mixed(others, own),
        "plain, and a look at the distances": lambda: mixed(others, own, looks=True),
        "clip, and a look": lambda: mixed(
            others, own, lambda: clipping.step(0, 1e-3, NEIGHBOURS), looks=True
        ),
        "median": lambda: mixed(others, own, lambda: Collected("median"), looks=True),
        "trimmed": lambda: mixed(others, own, lambda: Collected("trimmed"), looks=True),
    }
    spent = {name: median(rule() for _ in range(ROUNDS)) for name, rule in rules.items()}
    for name, seconds in spent.items():
        print(f"mixing with {NEIGHBOURS} neighbours, {name}: {seconds / spent['plain']:.2f} of plain")
    carried_s = median(tls[1] for _, tls in pairs) / (MESSAGES * MESSAGE) * 4 * ELEMENTS * NEIGHBOURS
    parts = {
        "plain mixing": spent["plain"],
        "the check on arrival": median(checked(others) for _ in range(ROUNDS)),
        "the look at the distances": spent["plain, and a look at the distances"] - spent["plain"],
        "clipping": spent["clip, and a look"] - spent["plain, and a look at the distances"],
    }
    for name, seconds in parts.items():
        print(
            f"{name}: {100 * seconds / carried_s:.1f} % of the CPU that carrying the same blocks by TLS takes"
        )


if __name__ == "__main__":
    uvloop.run(main())
