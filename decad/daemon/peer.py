"""The composition root: builds one peer out of its parts, runs it, and takes it down again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import torch

from decad._proto.control_pb2 import SettleReply, StatusReply
from decad.config import PeerConfig, RunSpec
from decad.core.blocks import BlockPlan
from decad.daemon.compute import ComputeThread
from decad.daemon.context import PeerContext
from decad.daemon.control import control_service
from decad.daemon.device import choose_device
from decad.daemon.events import Listener, Listening, nobody
from decad.daemon.exchange import Exchange
from decad.daemon.fetch import Donation
from decad.daemon.gate import Gate
from decad.daemon.inputs import Loaders
from decad.daemon.loading import Loaded, load
from decad.daemon.network import Network
from decad.daemon.progress import Activity, Progress
from decad.daemon.service import ServiceManager
from decad.daemon.status import StatusBoard, loading_reply
from decad.daemon.trainer import Trainer
from decad.daemon.waiting import linger, wait_for_neighbours
from decad.daemon.watchdog import Watchdog
from decad.data.local import data_seed
from decad.errors import DecadError, PeerError, StateError
from decad.membership.identity import Identity
from decad.state.lock import StateLock
from decad.trust.credentials import Credentials
from decad.trust.protection import half_hidden, in_words, listen_address, protection_of
from decad.wire.grpc_transport import GrpcTransport
from decad.wire.sealed import SealedTransport
from decad.wire.transport import Transport

log = logging.getLogger("decad")

REPORT_S = 10.0


class Peer:
    """One peer of a run, from its settings to its last checkpoint."""

    def __init__(
        self,
        spec: RunSpec,
        config: PeerConfig,
        transport: Transport | None = None,
        loaders: Loaders = Loaders(),  # noqa: B008  # immutable
        tell: Listener = nobody,
        service: ServiceManager | None = None,
    ) -> None:
        self._spec, self._config = spec, config
        self._service = service or ServiceManager()
        self._given_transport = transport
        self._protection = protection_of(config)
        self._listen = listen_address(config, self._protection)
        self._loaders = loaders
        self._tell = tell
        self._stop = asyncio.Event()
        self._trainer: Trainer | None = None
        self._board: StatusBoard | None = None
        self._progress = Progress(tell)
        self.abandoned = False
        """Whether the compute thread is left with a call that nobody waits for: stopped while loading or in a step."""

    def stop(self) -> None:
        """End as soon as the last completed step is saved; `run` then returns."""
        self._progress.activity = Activity.STOPPING
        self._service.stopping()
        self._stop.set()
        if self._trainer is not None:
            self._trainer.stop()

    async def run(self) -> None:
        """Train until done or stopped. Raises OperatorError, or PeerError when no peer takes this one in."""
        config = self._config
        if self._protection is not None:  # before the model is loaded, so that a mistake is told at once
            Credentials(Identity.generate(), self._protection)
        device = choose_device(config.device)
        compute = ComputeThread(config.threads)
        try:
            # Before the model is loaded, which may take minutes: what runs can be asked and stopped.
            with (
                StateLock(config.state_dir),
                Watchdog(
                    lambda: self._progress.pulse, lambda: self._progress.patience_s, self._stuck
                ) as watchdog,
            ):
                async with (
                    control_service(config.state_dir, self.status, self.stop, self._save, self._settle),
                    self._service.kept_told(lambda: watchdog.sound, self._line),
                ):
                    await self._load_and_train(device, compute)
        finally:
            self.abandoned = self._stop.is_set() and compute.busy
            compute.close(wait=not self.abandoned)

    async def _load_and_train(self, device: torch.device, compute: ComputeThread) -> None:
        loading = asyncio.ensure_future(
            load(self._spec, self._config, device, compute, self._loaders, self._progress)
        )
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({loading, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            loaded = loading.done()
            loading.cancel()
        if loaded:
            await self._train(device, compute, loading.result())
        else:
            log.info("stopped before it took a step: there is nothing to save")

    async def _train(self, device: torch.device, compute: ComputeThread, loaded: Loaded) -> None:
        config, run = self._config, loaded.run
        credentials = self._credentials(loaded.identity)
        gate = Gate(
            config.state_dir,
            self._protection,
            lambda: (
                frozenset(domain.name for domain in credentials.domains()) if credentials else frozenset()
            ),
            self._progress.notice,
        )
        context = PeerContext(
            loaded.identity,
            config,
            self._protection,
            gate,
            self._listen,
            run,
            loaded.model.plan,
            BlockPlan(loaded.model.blocks),
            self._progress,
        )
        transport = SealedTransport(self._given_transport or GrpcTransport(credentials))
        exchange = Exchange(run.spec, context.traffic.sent, context.traffic.received)
        network = Network(context, transport, exchange, self._donate)
        self._board = board = StatusBoard(context, network, exchange, device)
        network.remember(loaded.peers)
        await network.listen()
        try:
            log.info("peer %s listens on %s", context.peer_id[:8], network.listening)
            log.info("links: %s", in_words(self._protection, self._listen))
            self._tell(Listening(network.listening))
            if hidden := half_hidden(config, self._listen):
                self._progress.notice(hidden)
            seed = run.spec.seed
            async with _beside(network.run(), _report(board)):
                try:
                    # A peer that has taken no step yet may still learn that it cannot reach anybody.
                    began = loaded.resumed is not None and loaded.resumed.step > 0
                    await wait_for_neighbours(network, config, self._progress, self._stop, began)
                    if self._stop.is_set():
                        log.info("stopped before it took a step: there is nothing to save")
                    else:
                        network.freeze()
                        if run.spec.seed != seed:
                            loaded = await self._drawn_anew(loaded, compute)
                        self._trainer = Trainer(context, loaded, compute, exchange, network)
                        await self._trainer.run()
                        await linger(network, self._progress, self._stop, context.traffic.sent)
                    await network.farewell("it was stopped" if self._stop.is_set() else "it is done")
                except DecadError:
                    await network.farewell("it failed")
                    raise
        finally:
            await transport.close()

    def _credentials(self, identity: Identity) -> Credentials | None:
        if self._protection is None:
            return None
        return Credentials(identity, self._protection, self._progress.notices.add)

    async def _drawn_anew(self, loaded: Loaded, compute: ComputeThread) -> Loaded:
        """The data in the order of the seed that this peer adopted."""
        seed = data_seed(loaded.run.spec.seed, loaded.drawn_by)
        data = await compute.run(
            self._loaders.data, seed, self._config, loaded.model, self._progress.wait_for
        )
        return replace(loaded, data=data)

    def _stuck(self, text: str) -> None:
        self._progress.notices.add(text)

    def status(self) -> StatusReply:
        """What `decad status` is told."""
        if self._board is not None:
            return self._board.reply()
        return loading_reply(self._config, self._spec.run, self._progress)

    def _line(self) -> str:
        if self._board is not None:
            return self._board.line()
        return f"{self._progress.activity}: waiting for {self._progress.waiting_for}"

    async def _donate(self, block: int) -> Donation:
        if self._trainer is None:
            raise PeerError("this peer has not begun to train")
        return await self._trainer.donate(block)

    def _settle(self) -> SettleReply:
        if self._trainer is None:
            raise StateError("This peer has not begun to train. Wait until `decad status` says so.")
        return self._trainer.ending.settle()

    async def _save(self) -> int:
        if self._trainer is None:  # nothing is newer than what is on the disk
            return self._progress.step
        return await self._trainer.save()


@asynccontextmanager
async def _beside(*background: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these as long as the context lasts; if one fails, so does the context."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in background]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _report(board: StatusBoard) -> None:
    last = ""
    while True:
        await asyncio.sleep(REPORT_S)
        if (line := board.line()) != last:
            log.info(line)
        last = line
