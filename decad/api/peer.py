"""A peer inside one's own program."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.utils.data import default_collate

from decad._proto.control_pb2 import StatusReply
from decad.api.own import Collate, Indexed, Loss, OwnBatch, OwnData, OwnLoss, own_model, token_batch
from decad.config import PeerConfig, RunSpec
from decad.daemon import peer as daemon
from decad.daemon import process
from decad.daemon.events import Event, Listener, Listening, nobody
from decad.daemon.inputs import Loaders, load_directory, load_files
from decad.data.source import Source
from decad.errors import ConfigError, first_cause
from decad.model.trainable import TrainableModel
from decad.signals import INSISTING, stopping_signals
from decad.state.files import write_file
from decad.state.tensors import serialise


class Peer:
    """One peer of a run, like a `decad start` inside this program. It is run once.

    Several peers in one program, each with a state directory of its own, share one event loop.
    """

    def __init__(
        self,
        spec: RunSpec,
        config: PeerConfig,
        *,
        module: nn.Module | None = None,
        loss: Loss | None = None,
        data: Indexed | Iterable[Any] | None = None,
        held_out: Indexed | Iterable[Any] = (),
        collate: Collate = default_collate,
        on_event: Listener = nobody,
    ) -> None:
        """Make a peer; nothing is loaded or written yet. Raises ConfigError when what is given does not fit together.

        The model is that of ``config.model``, or ``module``: float32 or bfloat16, trained in place, and the same values
        at every peer when its first run begins. Parameters that do not require a gradient now are not trained.

        ``loss``: the mean loss of a batch, called on a thread of its own; needed with ``module``. Without it a model
        is trained for ``spec.task``.

        ``data``: examples with numbers (a list, a map-style dataset), of which ``config.batch_size`` at a time go
        through ``collate``; or an iterable of batches. It is read on that thread too. Without it the files of
        ``config.data`` are read. A batch is what ``loss`` takes: tensors, or tuples, lists and mappings of them, with
        the examples along dimension 0; without ``loss``, a `Batch`. ``held_out``: the same to evaluate on, at most
        ``config.eval_batches`` batches of it; it must be possible to iterate over it many times.

        ``on_event`` is called in the event loop: it is to be quick, and not to raise.
        """
        if (module is None) == (config.model is None):
            raise ConfigError("A peer trains one model. Give model in the PeerConfig, or a module.")
        if (data is None) == (not config.data):
            raise ConfigError("A peer has data of one kind. Give data in the PeerConfig, or as an argument.")
        if module is not None and (loss is None or data is None):
            raise ConfigError("A module of one's own needs a loss and data. Give both as arguments.")
        if module is not None and config.gradient_checkpointing:
            raise ConfigError(
                "gradient_checkpointing is for a model that decad loads. Leave it out of the PeerConfig, and call "
                "torch.utils.checkpoint where the module's forward wants it."
            )
        self._config, self._own_module, self._loss = config, module, loss
        self._data, self._held_out, self._collate = data, held_out, collate
        self._on_event = on_event
        self._queues: list[asyncio.Queue[Event | None]] = []
        self._model: TrainableModel | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._daemon = daemon.Peer(
            spec,
            config,
            loaders=Loaders(self._load_model, load_files if data is None else self._load_data),
            tell=self._tell,
        )

    async def run(self) -> None:
        """Train until ``config.steps`` or `stop`, save, and leave.

        Raises OperatorError when somebody must act here, PeerError when no peer takes this one in, and whatever the
        loss or the data raised. The steps before are saved then if the last of them ended a phase, at least.
        """
        trainable = (
            [] if self._own_module is None else [p for p in self._own_module.parameters() if p.requires_grad]
        )
        threads = torch.get_num_threads()  # of this thread, which a daemon has for its event loop alone
        try:
            await self._daemon.run()
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        finally:
            torch.set_num_threads(threads)
            for parameter in trainable:
                parameter.requires_grad_(True)
            self._ended = True
            for queue in self._queues:
                queue.put_nowait(None)

    async def __aenter__(self) -> Self:
        """Run beside what follows."""
        self._task = asyncio.create_task(self.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until it is done; stop it first if what it ran beside failed. Raises what `run` does."""
        assert self._task is not None
        if error is not None:
            self.stop()
        await self._task

    def stop(self) -> None:
        """End as soon as the last completed step is saved; `run` then returns."""
        self._daemon.stop()

    def events(self) -> AsyncGenerator[Event]:
        """What happens from now until `run` ends. What is not read yet is kept."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        if self._ended:
            queue.put_nowait(None)
        self._queues.append(queue)
        return self._read(queue)

    async def _read(self, queue: asyncio.Queue[Event | None]) -> AsyncGenerator[Event]:
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._queues.remove(queue)

    async def address(self) -> str:
        """host:port, as other peers' ``peers`` take it; waits until they can reach this one there.

        Raises RuntimeError when `run` ends before.
        """
        if not self.status().listen:
            async with aclosing(self.events()) as events:
                async for event in events:
                    if isinstance(event, Listening):
                        return event.address
            raise RuntimeError("The peer ended before others could reach it.")
        return self.status().listen

    def status(self) -> StatusReply:
        """Where it is, how fast, how well, and with whom: the message of proto/decad/v1/control.proto."""
        return self._daemon.status()

    @property
    def module(self) -> nn.Module:
        """What is trained: ``module``, or what was loaded. It is whole and in order when `run` has returned.

        Raises RuntimeError before it is loaded.
        """
        if self._model is None:
            raise RuntimeError("The model is not loaded yet: run the peer first.")
        module: nn.Module = self._model.module
        return module

    def export(self, path: Path) -> None:
        """Write the module's state dict as a safetensors file, which appears complete or not at all.

        For use when `run` has returned. Raises OSError.
        """
        partial = path.with_name(f"{path.name}.partial")
        write_file(
            partial, serialise({name: tensor.cpu() for name, tensor in self.module.state_dict().items()})
        )
        os.replace(partial, path)

    def _tell(self, event: Event) -> None:
        for queue in self._queues:
            queue.put_nowait(event)
        self._on_event(event)

    def _load_model(self, spec: RunSpec, config: PeerConfig, device: torch.device) -> TrainableModel:
        if self._own_module is not None and self._loss is not None:
            self._model = own_model(self._own_module, self._loss, spec, config, device)
        else:
            self._model = load_directory(spec, config, device)
            if self._loss is not None:
                self._model.objective = OwnLoss(self._model.module, self._loss)
        return self._model

    def _load_data(
        self, seed: int, config: PeerConfig, model: TrainableModel, tell: Callable[[str], None]
    ) -> Source:
        assert self._data is not None
        wrap = token_batch if self._loss is None else OwnBatch
        return OwnData(self._data, self._held_out, self._collate, wrap, seed)


def run(peer: Peer) -> None:
    """Run ``peer`` in an event loop of its own until it is done, or SIGINT, SIGTERM or SIGHUP arrives; for scripts.

    A second SIGINT or SIGTERM does what it would do without decad. Raises what `Peer.run` does.
    """
    with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
        runner.run(_stopped_by_signals(peer))


async def _stopped_by_signals(peer: Peer) -> None:
    loop = asyncio.get_running_loop()
    # Python lets nobody but the main thread handle signals.
    numbers = stopping_signals() if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}

    def release() -> None:
        for number, handler in before.items():
            if loop.remove_signal_handler(number):
                signal.signal(number, handler)

    def stop() -> None:
        for number in INSISTING:
            if number in before and loop.remove_signal_handler(number):
                signal.signal(number, before[number])
        peer.stop()

    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        await peer.run()
    finally:
        release()
