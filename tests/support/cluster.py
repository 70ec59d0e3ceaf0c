"""Many whole peers in one process: the daemon's own composition on a memory network, training a toy model.

Everything is real but for the wire, the model, the control service, and time: it is virtual (support/virtual.py), so
that minutes pass in a second and the same seed gives the same run, to the bit. All times here are virtual seconds.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import random
import secrets
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar
from unittest.mock import patch

import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from torch import Tensor

from decad.config import PeerConfig, RunSpec
from decad.daemon.batches import Batches
from decad.daemon.compute import ComputeThread
from decad.daemon.context import RunSettings
from decad.daemon.exchange import Exchange
from decad.daemon.inputs import Loaders
from decad.daemon.network import Network
from decad.daemon.peer import Peer
from decad.daemon.progress import Notices, Progress
from decad.membership.identity import KEY_FILE, peer_id_of
from support.ledger import WRITER, Ledger, Writer, watched
from support.toy import ToyModel
from support.virtual import Process, VirtualThread, run
from support.weather import Skies, WeatheredTransport

PATIENCE_S = 120.0
"""How long a test waits for what takes seconds."""
POLL_S = 0.005
STEP_S = 0.05
"""A gradient takes so long, or an evaluation; other calls of the compute thread take a fiftieth."""
DISK_S = 0.02
"""A call on the thread that writes."""
P = ParamSpec("P")
T = TypeVar("T")


class Step(NamedTuple):
    """One step that a peer has taken."""

    number: int
    at: float
    """When, in seconds on the loop's clock."""
    block: int
    complete: bool
    """Nobody was missing."""
    weights: tuple[float, ...]
    """Of the edges in that step, by the neighbours' ids."""
    theta: Tensor
    """The block after it, [n]."""


@dataclass
class WatchedProgress(Progress):
    """Calls ``on_step(complete)`` after every step, before its number changes."""

    on_step: Callable[[bool], None] = field(default=lambda complete: None)

    def stepped(self, compute_s: float, exchange_s: float, complete: bool) -> None:
        super().stepped(compute_s, exchange_s, complete)
        self.on_step(complete)


LONG_CALLS = (Batches.gradient.__name__, "evaluate")
"""They go through the model; the others take a fiftieth of that."""


class VirtualCompute(ComputeThread):
    """The compute thread of one process, on virtual time. ``gradient_s``: how long a gradient takes now."""

    def __init__(self, gradient_s: Callable[[], float]) -> None:
        self._thread = VirtualThread(
            lambda call: gradient_s() * (1.0 if call.__name__ in LONG_CALLS else 0.02)
        )

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._thread.submit(call, *args, **kwargs)

    @property
    def busy(self) -> bool:
        return self._thread.busy

    def close(self, *, wait: bool = True) -> None:
        self._thread.kill()


class SimulatedPeer(Peer):
    """A peer without control service and lock."""

    def __init__(
        self,
        spec: RunSpec,
        config: PeerConfig,
        transport: WeatheredTransport,
        model: ToyModel,
        compute: VirtualCompute,
    ) -> None:
        super().__init__(spec, config, transport, Loaders(lambda spec, config, device: model.asked(spec)))
        self.progress = self._progress = WatchedProgress(on_step=self._on_step)
        self.model = model
        self.steps: list[Step] = []
        self._compute = compute

    async def run(self) -> None:
        try:
            await self._load_and_train(torch.device("cpu"), self._compute)
        except BaseExceptionGroup as group:  # as the command line does
            raise _first(group) from None
        finally:
            self._compute.close()

    @property
    def step(self) -> int:
        """The next step to take."""
        return self.progress.step

    @property
    def notices(self) -> str:
        """What the operator was told, a line each."""
        notices: Notices = self.progress.notices
        return "\n".join(text for _, text in notices.entries)

    @property
    def network(self) -> Network:
        assert self._board is not None
        return self._board.network

    @property
    def run_settings(self) -> RunSettings:
        assert self._board is not None
        return self._board.context.run

    @property
    def exchange(self) -> Exchange:
        assert self._board is not None
        return self._board.exchange

    def _on_step(self, complete: bool) -> None:
        assert self._trainer is not None
        ids = sorted(peer.id for peer in self.network.table.peers)
        figures = [self.exchange.neighbour(peer) for peer in ids]
        weights = tuple(f.weight for f in figures if f is not None and f.weight > 0)
        block = self._trainer.position.block
        now = asyncio.get_running_loop().time()
        self.steps.append(Step(self.step, now, block, complete, weights, self.model.block(block)))


def address_of(name: str) -> str:
    """Where the peer on this machine listens."""
    return f"10.0.0.{ord(name) - ord('a') + 1}:7700"


class Machine:
    """A host on which peers come and go, one at a time."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.expected_to_fail = False
        self.step_s, self.disk_s = STEP_S, DISK_S
        self.lives = 0
        self.key = _key(f"{seed}/{name}")
        self.id = peer_id_of(self.key.public_key())
        self.peer: SimulatedPeer
        self.process: Process
        self.task: asyncio.Task[None]
        self._chance = random.Random(f"machine {seed}/{name}")

    @property
    def host(self) -> str:
        return address_of(self.name).partition(":")[0]

    @property
    def step(self) -> int:
        return self.peer.step

    @property
    def model(self) -> ToyModel:
        return self.peer.model

    @property
    def runs(self) -> bool:
        return not self.task.done()

    def gradient_s(self) -> float:
        """How long the next gradient takes."""
        return self.step_s * self._chance.uniform(0.9, 1.2)

    def identify(self, directory: Path) -> None:
        """Give the peer the key that follows from the seed."""
        directory.mkdir(exist_ok=True)
        (directory / KEY_FILE).write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


class Cluster:
    """The machines of one test. ``settings``: of the run spec, for everybody; None leaves one unset."""

    def __init__(self, folder: Path, *, blocks: int = 3, seed: int = 0, **settings: object) -> None:
        self.network = Skies(seed)
        self.ledger = Ledger()
        self.machines: dict[str, Machine] = {}
        self._seed = seed
        self._patches = ExitStack()
        self._folder, self._blocks, self._settings = folder, blocks, settings
        self._data = folder / "data.txt"
        self._data.write_text("all work and no play makes jack a dull boy\n" * 20)

    async def __aenter__(self) -> Self:
        self._patches.enter_context(watched())
        self._patches.enter_context(_without_chance(self._seed))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self.machines:
            await self.kill(name)
        self._patches.close()

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    @property
    def running(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.runs]

    def start(
        self,
        name: str,
        *,
        peers: tuple[str, ...] | None = None,
        min_peers: int = 0,
        steps: int = 0,
        own: float = 0.0,
        **settings: object,
    ) -> Machine:
        """Start a peer on the machine ``name``, which finds its earlier state if it ran before.

        ``name``: a single letter. ``peers``: names to dial; by default the machine that was started first.
        ``own``: see `ToyModel`.
        """
        machine = self.machines[name] = self.machines.get(name) or Machine(name, self._seed)
        if peers is None:
            first = next(iter(self.machines))
            peers = (first,) if first != name else ()
        given = {"inner_steps": 5, "lr": 0.02, **self._settings, **settings}
        spec = RunSpec.model_validate({key: value for key, value in given.items() if value is not None})
        config = PeerConfig(
            insecure=True,
            model=self._folder,
            data=(self._data,),
            state_dir=self._folder / name,
            listen=address_of(name),
            peers=tuple(address_of(peer) for peer in peers),
            name=name,
            steps=steps,
            seq_len=8,
            batch_size=1,
            device="cpu",
            min_peers=min_peers,
            mdns=False,
            eval_batches=1,
        )
        machine.identify(config.state_dir)
        machine.lives += 1
        transport = WeatheredTransport(self.network, machine.host)
        compute = VirtualCompute(machine.gradient_s)
        machine.peer = SimulatedPeer(spec, config, transport, ToyModel(self._blocks, own), compute)
        machine.process = Process(lambda: machine.disk_s)
        writer = Writer(self.ledger, machine.id, machine.lives)
        machine.task = machine.process.start(machine.peer.run(), name, {WRITER: writer})
        return machine

    async def kill(self, name: str) -> None:
        """End the peer as SIGKILL does: nobody hears a goodbye, and nothing is saved."""
        machine = self.machines[name]
        self.network.kill(machine.host)
        await machine.process.kill()

    async def stop(self, name: str) -> None:
        """End the peer as the first SIGTERM does."""
        machine = self.machines[name]
        machine.peer.stop()
        await self.ended(name)

    async def ended(self, *names: str) -> None:
        """Wait for peers to end by themselves; raises what they raised."""
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(self.machines[name].task for name in names or tuple(self.machines)))

    async def failure(self, name: str) -> BaseException | None:
        """What this peer ends with, by itself."""
        machine = self.machines[name]
        machine.expected_to_fail = True
        await asyncio.wait({machine.task}, timeout=PATIENCE_S)
        return machine.task.exception()

    def cut(self, left: set[str], right: set[str]) -> None:
        """No connection between the two halves from now on."""
        for a in left:
            for b in right:
                for one, other in ((a, b), (b, a)):
                    self.network.cut(self.machines[one].host, self.machines[other].host)

    def heal(self, left: set[str], right: set[str]) -> None:
        for a in left:
            for b in right:
                self.network.heal(self.machines[a].host, self.machines[b].host)

    async def until(self, condition: Callable[[], object], what: str, patience: float = PATIENCE_S) -> None:
        """Return when ``condition`` holds. Fails when it does not come to hold, or a peer breaks down meanwhile."""
        deadline = asyncio.get_running_loop().time() + patience
        while not condition():
            for machine in self.machines.values():
                if machine.task.done() and not machine.task.cancelled() and not machine.expected_to_fail:
                    machine.task.result()
            if asyncio.get_running_loop().time() > deadline:
                where = ", ".join(
                    f"{m.name} {m.peer.progress.activity.value} at step {m.step} ({m.peer.progress.waiting_for})"
                    for m in self.machines.values()
                )
                raise AssertionError(f"not within {patience:.0f} s: {what}; {where}")
            await asyncio.sleep(POLL_S)

    async def told(self, name: str, text: str) -> None:
        """Return when the operator of this peer was told ``text``."""
        await self.until(lambda: text in self.machines[name].peer.notices, f"{name} is told {text!r}")

    async def further(self, steps: int, *names: str) -> None:
        """Return when each of these peers (default: all that run) has taken so many more steps."""
        machines = [self.machines[name] for name in names] or self.running
        goals = {machine: len(machine.peer.steps) + steps for machine in machines}
        await self.until(
            lambda: all(len(m.peer.steps) >= goal for m, goal in goals.items()), f"{steps} steps more"
        )


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def spread(peers: list[SimulatedPeer]) -> float:
    """Consensus distance: the root of the mean squared distance of the peers' models from their average."""
    values = torch.stack([peer.model.values for peer in peers])
    return float((values - values.mean(dim=0)).square().mean().sqrt())


def simulated(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on virtual time."""

    @functools.wraps(test)
    def on_virtual_time(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return on_virtual_time


@contextmanager
def _without_chance(seed: int) -> Iterator[None]:
    """Instances follow from the seed. Nobody cuts the power here, so nothing waits for the disk."""
    chance = random.Random(f"instances {seed}")
    with (
        patch.object(secrets, "randbits", chance.getrandbits),
        patch.object(os, "fsync", lambda descriptor: None),
    ):
        yield


def _key(seed: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:31]), ec.SECP256R1())
