"""The composition root: builds one peer out of its parts, runs it, and takes it down again."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import torch

from decad._proto.control_pb2 import StatusReply
from decad.config import LOADED_FIELDS, MEASURED_FIELDS, PeerConfig, RunSpec, is_loopback, split_address
from decad.daemon.admission import Terms
from decad.daemon.compute import ComputeThread
from decad.daemon.control import control_service
from decad.daemon.device import available_memory, choose_device, choose_dtype, is_emulated
from decad.daemon.events import Listener, Listening, nobody
from decad.daemon.exchange import Exchange
from decad.daemon.fetch import Donation
from decad.daemon.network import Network
from decad.daemon.progress import Activity, Notices, Progress
from decad.daemon.service import ServiceManager
from decad.daemon.status import StatusBoard, loading_reply
from decad.daemon.trainer import Trainer
from decad.daemon.watchdog import Watchdog
from decad.data.local import LocalData, PackedData, data_seed, load_data
from decad.data.source import Source
from decad.errors import ConfigError, DecadError, NetworkError, PeerError, StateError
from decad.membership.agreement import Refuse, agree, parse_spec
from decad.membership.identity import load_or_create
from decad.model.length import check_length
from decad.model.room import check_room
from decad.model.trainable import TrainableModel
from decad.paths import control_socket
from decad.state.checkpoint import Checkpoint, CheckpointStore
from decad.state.lock import StateLock
from decad.state.weights import TrainedBlocks
from decad.wire.counters import ByteCounter
from decad.wire.grpc_transport import GrpcTransport
from decad.wire.sealed import SealedTransport
from decad.wire.transport import Transport

log = logging.getLogger("decad")

SETTLE_S = 3.0
"""Looking for peers before the first step: a machine that could join should not train a step alone."""
REACH_S = 15.0
"""A fresh peer that reaches nobody of ``--peers`` within this time gives up."""
LINGER_S = 5.0
"""A peer that is done stays at least so long for neighbours that still need its last block."""
REPORT_S = 10.0
POLL_S = 0.2


ModelLoader = Callable[[RunSpec, PeerConfig, torch.device], TrainableModel]
DataLoader = Callable[[int, PeerConfig, TrainableModel, Callable[[str], None]], Source]
"""(the run's seed, settings, model, what is told of what is waited for) -> data.

Called on the compute thread, and again when the run turns out to have another seed.
"""


class Peer:
    """One peer of a run, from its settings to its last checkpoint."""

    def __init__(
        self,
        spec: RunSpec,
        config: PeerConfig,
        transport: Transport | None = None,
        load_model: ModelLoader | None = None,
        load_data: DataLoader | None = None,
        tell: Listener = nobody,
        service: ServiceManager | None = None,
    ) -> None:
        self._spec, self._config = spec, config
        self._service = service or ServiceManager()
        self._transport = SealedTransport(transport or GrpcTransport())
        self._load_model = load_model or load_directory
        self._load_data = load_data or load_files
        self._tell = tell
        self._stop = asyncio.Event()
        self._trainer: Trainer | None = None
        self._board: StatusBoard | None = None
        self._progress, self._notices = Progress(tell), Notices(tell)
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
        _check_exposure(config)
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
                    control_service(control_socket(config.state_dir), self.status, self.stop, self._save),
                    self._service.kept_told(lambda: watchdog.sound, self._line),
                ):
                    await self._load_and_train(device, compute)
        finally:
            self.abandoned = self._stop.is_set() and compute.busy
            compute.close(wait=not self.abandoned)

    async def _load_and_train(self, device: torch.device, compute: ComputeThread) -> None:
        loading = asyncio.ensure_future(self._load(device, compute))
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({loading, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            loaded = loading.done()
            loading.cancel()
        if loaded:
            await self._train(device, compute, *loading.result())
        else:
            log.info("stopped before it took a step: there is nothing to save")

    async def _load(
        self, device: torch.device, compute: ComputeThread
    ) -> tuple[TrainableModel, Source, CheckpointStore, Checkpoint | None, Terms]:
        config = self._config
        self._wait_for("the checkpoint to be read")
        store = CheckpointStore(config.state_dir)
        checkpoint = await compute.run(store.load)
        log.info("loading %s", config.model or "the model")
        self._wait_for(f"the model {config.model or ''} to be loaded")
        asked = _as_before(self._spec, checkpoint)
        model = await compute.run(self._load_model, asked, config, device)
        spec = model.spec
        log.info("%d blocks, %.1f M parameters", len(model.plan), model.plan.numel / 1e6)
        self._wait_for("the data to be read")
        data = await compute.run(self._load_data, spec.seed, config, model, self._wait_for)
        if isinstance(data, LocalData) and data.corpus.skipped:
            self._notices.add(
                f"{data.corpus.skipped} records of the data are bad and were left out; the log of the start that "
                "read them names the first ones."
            )
        terms = _terms(spec, checkpoint, config)
        if checkpoint is not None:
            await _restore(model, checkpoint, compute)
            self._progress.step = checkpoint.run.step
            log.info("continuing at step %d", checkpoint.run.step)
            if checkpoint.lost and self._notices.add(checkpoint.lost):
                log.warning(checkpoint.lost)
        return model, data, store, checkpoint, terms

    def _wait_for(self, text: str) -> None:
        self._progress.waiting_for = text

    async def _train(
        self,
        device: torch.device,
        compute: ComputeThread,
        model: TrainableModel,
        data: Source,
        store: CheckpointStore,
        checkpoint: Checkpoint | None,
        terms: Terms,
    ) -> None:
        config, seed = self._config, terms.spec.seed
        identity = load_or_create(config.state_dir)
        sent, received = ByteCounter(), ByteCounter()
        exchange = Exchange(terms.spec, sent, received)
        network = Network(
            identity,
            config,
            terms,
            model.plan,
            self._transport,
            exchange,
            self._donate,
            sent,
            received,
            self._notices,
        )
        self._board = board = StatusBoard(
            identity.peer_id,
            config,
            model.plan,
            self._progress,
            self._notices,
            network,
            exchange,
            sent,
            received,
            device,
        )
        if checkpoint is not None:
            network.remember(checkpoint.run.peers)
        await network.listen()
        try:
            log.info("peer %s listens on %s", identity.peer_id[:8], network.listening)
            self._tell(Listening(network.listening))
            if hidden := _half_hidden(config):
                network.notice(hidden)
            async with _beside(network.run(), _report(board)):
                try:
                    await self._settle(network, checkpoint is not None)
                    if self._stop.is_set():
                        log.info("stopped before it took a step: there is nothing to save")
                    else:
                        network.freeze()
                        if terms.spec.seed != seed:
                            data = await compute.run(
                                self._load_data, terms.spec.seed, config, model, self._wait_for
                            )
                        self._trainer = Trainer(
                            terms.spec,
                            terms.set_fields,
                            config,
                            model,
                            data,
                            compute,
                            exchange,
                            network,
                            store,
                            checkpoint,
                            self._progress,
                            self._notices,
                        )
                        await self._trainer.run()
                        await self._linger(network)
                    await network.farewell("it was stopped" if self._stop.is_set() else "it is done")
                except DecadError:
                    await network.farewell("it failed")
                    raise
        finally:
            await self._transport.close()

    async def _settle(self, network: Network, resumed: bool) -> None:
        """Wait for the neighbours that can be had before training begins."""
        config, progress, loop = self._config, self._progress, asyncio.get_running_loop()
        begun = loop.time()
        progress.activity = Activity.WAITING
        while not self._stop.is_set():
            if network.fatal.done():
                network.fatal.result()
            waited, unmet = loop.time() - begun, _unmet(network)
            not_reached = f"; not reached: {unmet}" if unmet else ""
            if config.min_peers:
                if network.linked >= config.min_peers and not network.undecided:
                    break
                progress.waiting_for = (
                    f"neighbours ({config.min_peers} wanted, {network.linked} here){not_reached}"
                )
            elif not config.mdns and not network.dials.addresses:
                break
            else:
                progress.waiting_for = f"peers to be found{not_reached}"
                if waited >= SETTLE_S and not network.undecided and (network.linked or not config.peers):
                    break
                if waited >= REACH_S and not network.linked:
                    if not resumed:
                        raise network.mismatch or NetworkError(
                            f"None of --peers could be reached within {REACH_S:.0f} s: {unmet}. Check the addresses "
                            "and that decad runs there; or start without --peers to be the first, or with "
                            "--min-peers 1 to wait for them."
                        )
                    network.notice(f"None of --peers can be reached: {unmet}. Training alone meanwhile.")
                    break
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await network.neighbourhood.wait_change()
        progress.waiting_for = ""

    async def _linger(self, network: Network) -> None:
        """Stay until the neighbours have finished this peer's last step too, or a few seconds have passed."""
        if self._stop.is_set():
            return
        self._progress.activity = Activity.FINISHED
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self._stop.is_set() and network.neighbourhood.anybody_before(self._progress.step):
                    await network.neighbourhood.wait_change()

    def _stuck(self, text: str) -> None:
        self._notices.add(text)

    def status(self) -> StatusReply:
        """What `decad status` is told."""
        if self._board is not None:
            return self._board.reply()
        return loading_reply(self._config, self._spec.run, self._progress, self._notices)

    def _line(self) -> str:
        if self._board is not None:
            return self._board.line()
        return f"{self._progress.activity}: waiting for {self._progress.waiting_for}"

    async def _donate(self, block: int) -> Donation:
        if self._trainer is None:
            raise PeerError("this peer has not begun to train")
        return await self._trainer.donate(block)

    async def _save(self) -> int:
        if self._trainer is None:  # nothing is newer than what is on the disk
            return self._progress.step
        return await self._trainer.save()


def run_peer(spec: RunSpec, config: PeerConfig) -> None:
    """Run one peer in this process until it is done or SIGTERM or SIGINT arrives; a second signal exits at once."""

    peer = Peer(spec, config, service=ServiceManager.take_from(os.environ))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)

        def leave(number: signal.Signals) -> None:
            os._exit(128 + number)

        def stop(number: signal.Signals) -> None:
            log.info("%s: stopping; a second one exits at once", number.name)
            for again in numbers:
                loop.add_signal_handler(again, leave, again)
            peer.stop()

        for number in numbers:
            loop.add_signal_handler(number, stop, number)
        await peer.run()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())
        if peer.abandoned:
            # Python would wait for the compute thread, which may be at it for a long time yet.
            logging.shutdown()
            os._exit(0)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Of the fastest event loop that there is here; None: asyncio's own."""
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return None
    return uvloop.new_event_loop


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


async def _restore(model: TrainableModel, checkpoint: Checkpoint, compute: ComputeThread) -> None:
    for index, values in TrainedBlocks(checkpoint).items():
        await compute.run(model.set_block, index, values)


def load_directory(spec: RunSpec, config: PeerConfig, device: torch.device) -> TrainableModel:
    """The Hugging Face model of the settings. Raises OperatorError."""
    if config.model is None:
        raise ConfigError("There is no model. Give the directory of one, or a module of your own.")
    dtype = choose_dtype(config.dtype, device)
    if is_emulated(dtype, device):
        log.warning("this processor has no bf16 arithmetic: --dtype float32 is many times faster")
    check_room(config.model, spec, dtype, str(device), available_memory(device))
    return TrainableModel.load(
        config.model,
        device,
        dtype,
        spec,
        micro_batch=config.micro_batch,
        checkpointing=config.gradient_checkpointing,
    )


def load_files(seed: int, config: PeerConfig, model: TrainableModel, tell: Callable[[str], None]) -> Source:
    """The data of the settings. ``tell`` hears now and then what is waited for. Raises OperatorError."""
    check_length(config.seq_len, model.context_length)
    data = load_data(
        config.data,
        model.tokenizer,
        model.spec.task,
        model.spec.labels,
        config.seq_len,
        config.held_out,
        data_seed(seed, config.name),
        keep=config.state_dir,
        strict=config.strict_data,
        tell=tell,
    )
    what = f"sequences of {config.seq_len} tokens" if isinstance(data, PackedData) else "examples"
    log.info("%d %s to train on, %d held out", data.train_sequences, what, data.held_out)
    return data


def _as_before(spec: RunSpec, checkpoint: Checkpoint | None) -> RunSpec:
    """``spec``, with what a model is loaded by as it was when the checkpoint was made, unless it was set now."""
    if checkpoint is None:
        return spec
    saved = parse_spec(checkpoint.run.spec).model_dump(include=set(LOADED_FIELDS - MEASURED_FIELDS))
    filled = {name: value for name, value in saved.items() if name not in spec.model_fields_set}
    return spec.model_copy(update=filled)


def _terms(spec: RunSpec, checkpoint: Checkpoint | None, config: PeerConfig) -> Terms:
    """The run spec to begin with: a checkpoint's own, unless what was set now contradicts it."""
    set_now = frozenset(spec.model_fields_set) - LOADED_FIELDS
    if checkpoint is None:
        return Terms(spec, set_now)
    saved = parse_spec(checkpoint.run.spec)
    verdict = agree(spec, set_now, False, "1", saved, frozenset(checkpoint.run.set_fields), True, "0")
    if isinstance(verdict, Refuse):
        if any(f.field == "model_hash" for f in verdict.fields):
            raise StateError(
                f"The checkpoint in {config.state_dir} was trained from another base model than "
                f"{config.model or 'the module as it is now'}. "
                "Start with the one that it had, or give another directory with --state-dir to begin anew."
            )
        listed = "; ".join(f"{f.field} is {f.mine} now and was {f.theirs}" for f in verdict.fields)
        raise StateError(
            f"The checkpoint in {config.state_dir} belongs to a run with other settings: {listed}. Start with the "
            "settings that it had, or give another directory with --state-dir to begin anew."
        )
    return Terms(saved, frozenset(checkpoint.run.set_fields) | set_now)


def _unmet(network: Network) -> str:
    return ", ".join(f"{address} ({reason or 'no answer yet'})" for address, reason in network.unreachable())


def _check_exposure(config: PeerConfig) -> None:
    if not config.insecure and not is_loopback(split_address(config.listen)[0]):
        raise ConfigError(
            f"--listen {config.listen} would accept links from other machines, and links are neither encrypted nor "
            "authenticated yet. Listen on 127.0.0.1, or accept that on a network you trust with --insecure."
        )


def _half_hidden(config: PeerConfig) -> str:
    """What to say to who dials other machines but cannot be dialled by them; empty if all is well."""
    far = [address for address in config.peers if not is_loopback(split_address(address)[0])]
    if not far or not is_loopback(split_address(config.listen)[0]):
        return ""
    return (
        f"This peer dials {far[0]}, but listens at {config.listen}, where no other machine can reach it: it mixes "
        "with those only that it dials itself. To join all of them, start it with --listen 0.0.0.0:0 --insecure."
    )
