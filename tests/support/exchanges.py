"""A few Exchange objects joined by memory links, each with one block, and no network or trainer around them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from decad.config import RunSpec
from decad.core.adam import AdamState, local_step
from decad.core.blocks import Block, BlockPlan
from decad.core.coding import decoder, encoder
from decad.core.constants import AdamConstants
from decad.core.mixing import Mixer, moment_scale
from decad.core.moments import default_b1, moment_rule
from decad.core.round import Proceed
from decad.core.section import Section
from decad.daemon.exchange import Exchange
from decad.daemon.neighbour import Neighbour
from decad.daemon.step import Coding
from decad.errors import LinkClosed, PeerError
from decad.wire.counters import ByteCounter
from decad.wire.memory import MemoryNetwork, MemoryTransport
from decad.wire.transport import Link

PATIENCE_S = 5.0
LR = 1e-2


async def settled(turns: int = 50) -> None:
    """Let every task that can go on do so: memory links need no clock."""
    for _ in range(turns):
        await asyncio.sleep(0)


def one_block(rows: int, columns: int) -> Block:
    """A block of one matrix."""
    return BlockPlan.build([("block", ["w"])], {"w": (rows, columns)})[0]


class Node:
    """One peer: an exchange, and what a trainer would hold of the block. All nodes share the reference 0."""

    def __init__(self, name: str, spec: RunSpec, block: Block, theta: Tensor) -> None:
        self.name, self.spec, self.block = name, spec, block
        self.theta = theta.clone()
        self.state = AdamState.zeros(block.numel, "cpu")
        self.rule = moment_rule(spec.moments)
        self.constants = AdamConstants(b1=default_b1(spec.moments))
        self.sent, self.received = ByteCounter(), ByteCounter()
        self.exchange = Exchange(spec, self.sent, self.received)
        self.links: dict[str, Neighbour] = {}
        self.errors: dict[str, PeerError] = {}
        self.asks: list[tuple[str, int]] = []
        """(to whom, phase) of every Ask sent."""
        self.coding: Coding
        self.begin_phase(0)

    def begin_phase(self, phase: int, block: int = 0) -> None:
        sizes = {Section.BLOCK: self.block.numel, **self.rule.sections(self.block)}
        c = self.constants
        self.state = AdamState.zeros(self.block.numel, "cpu")
        self.coding = Coding(
            sizes,
            encoder(self.spec.encoding),
            lambda: decoder(self.spec.encoding, sizes),
            lambda section, mine, theirs: moment_scale(section, c.a1, c.a2, mine, theirs),
        )
        steps = range(phase * self.spec.inner_steps, (phase + 1) * self.spec.inner_steps)
        self.exchange.begin_phase(phase, steps, block, self.coding)

    def open(self, step: int, neighbours: Collection[str] | None = None) -> None:
        self.exchange.open(step, self.links if neighbours is None else neighbours)

    def half_step(self, gradient: Tensor | None = None) -> None:
        """Train and encode; without a gradient the block stays as it is."""
        local_step(
            self.theta,
            torch.zeros_like(self.theta) if gradient is None else gradient,
            self.state,
            self.constants,
            LR,
        )
        values = {Section.BLOCK: self.theta, **self.rule.outgoing(self.block, self.state)}
        self.coding.encoder.encode(values)

    async def mix(self, computed: float = 4.0) -> Proceed:
        """Exchange, mix and apply. ``computed``: by default so long that no deadline passes on a busy machine."""
        accumulators = {section: torch.zeros(size) for section, size in self.coding.sizes.items()}
        async with asyncio.timeout(PATIENCE_S):
            proceed, mixer = await self.exchange.mix(self.state.updates, accumulators, computed)
        self.finish(mixer)
        return proceed

    def finish(self, mixer: Mixer) -> None:
        self.d = mixer.finish()
        self.rule.apply(self.block, self.state, self.d, LR, self.constants)
        self.theta.add_(self.d[Section.BLOCK])

    async def step(self, number: int, gradient: Tensor | None = None) -> Proceed:
        """A whole step with everybody linked."""
        self.open(number)
        self.half_step(gradient)
        return await self.mix()


class Mesh:
    """Nodes and the links between them."""

    def __init__(self, spec: RunSpec, thetas: Mapping[str, Tensor], block: Block) -> None:
        self.nodes = {name: Node(name, spec, block, theta) for name, theta in thetas.items()}
        self.network = MemoryNetwork()
        self._transports = {name: MemoryTransport(self.network, name) for name in thetas}
        self._accepted: dict[str, asyncio.Queue[Link]] = {name: asyncio.Queue() for name in thetas}
        self._addresses: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Mesh:
        for name, transport in self._transports.items():

            async def on_link(link: Link, name: str = name) -> None:
                self._accepted[name].put_nowait(link)
                await self._ended.wait()

            self._addresses[name] = await transport.listen(f"{name}:0", on_link)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended.set()
        for transport in self._transports.values():
            await transport.close()
        await asyncio.gather(*self._tasks)

    async def link(self, a: str, b: str) -> tuple[Link, Link]:
        """A new link with nobody at its ends yet: a's end, b's end."""
        dialled = await self._transports[a].dial(self._addresses[b], PATIENCE_S)
        return dialled, await self._accepted[b].get()

    async def join(self, *edges: tuple[str, str]) -> None:
        """Link each pair of nodes and let both ends run."""
        for a, b in edges:
            ends = await self.link(a, b)
            for mine, theirs, link in ((a, b, ends[0]), (b, a, ends[1])):
                self.run(mine, theirs, link)

    async def join_all(self) -> None:
        names = sorted(self.nodes)
        await self.join(*((a, b) for i, a in enumerate(names) for b in names[i + 1 :]))

    def run(self, mine: str, theirs: str, link: Link) -> Neighbour:
        """Run one end of a link as a session does."""
        node = self.nodes[mine]

        def ask(phase: int) -> None:
            node.asks.append((theirs, phase))
            if (other := self.nodes[theirs].links.get(mine)) is not None:
                self.nodes[theirs].exchange.asked(other, phase)

        neighbour = node.links[theirs] = node.exchange.attach(theirs, ask)
        task = asyncio.ensure_future(self._serve(node, neighbour, link))
        self._tasks.add(task)
        return neighbour

    async def _serve(self, node: Node, neighbour: Neighbour, link: Link) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(neighbour.outbox.run(link.blocks))
                group.create_task(node.exchange.receive(neighbour, link.blocks))
                group.create_task(_end_of(link))
        except* LinkClosed:
            pass
        except* PeerError as error:
            first = error.exceptions[0]
            assert isinstance(first, PeerError)
            node.errors[neighbour.name] = first
        finally:
            node.exchange.detach(neighbour)
            await link.close()

    async def step(self, number: int, gradients: Mapping[str, Tensor] | None = None) -> list[Proceed]:
        """One step of every node, side by side."""
        given = gradients or {}
        steps = [node.step(number, given.get(name)) for name, node in sorted(self.nodes.items())]
        return list(await asyncio.gather(*steps))

    def thetas(self) -> Tensor:
        """[nodes, n], by name."""
        return torch.stack([self.nodes[name].theta for name in sorted(self.nodes)])


async def _end_of(link: Link) -> None:
    """As a session's control channel: notices the end of a link on which the blocks are held back."""
    await link.control.receive()


def random_thetas(names: Sequence[str], size: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, generator=generator) for name in names}
