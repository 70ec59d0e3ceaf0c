"""When checkpoints are written: beside the training, one at a time, and at once for who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from decad.errors import StateError
from decad.state.checkpoint import ActiveState, AdapterState, CheckpointStore, Snapshot, TrainedBlock
from decad.state.manifest import RunRecord

T = TypeVar("T")


class Saver:
    """Owns the io thread. ``notice`` tells the operator when checkpoints begin to fail, and when they work again."""

    def __init__(self, store: CheckpointStore, notice: Callable[[str], None]) -> None:
        self._store, self._notice = store, notice
        self._io = ThreadPoolExecutor(1, "io")
        self._writing: asyncio.Future[StateError | None] | None = None
        self._unsaved: dict[int, TrainedBlock] = {}
        self._requests: list[asyncio.Future[int | None]] = []
        self._due = self._failing = self._closed = False

    def changed(self, index: int, block: TrainedBlock) -> None:
        """An inactive block has new values: to be in the next checkpoint."""
        self._unsaved[index] = block

    def due(self) -> None:
        """A checkpoint is wanted as soon as none is being written."""
        self._due = True

    @property
    def may_begin(self) -> bool:
        """Whether a checkpoint is due and none is being written: a slow disk must not hold up the training."""
        return self._due and (self._writing is None or self._writing.done())

    @property
    def owes(self) -> bool:
        """Whether somebody waits for a checkpoint, or a block is in none yet."""
        return bool(self._unsaved or self._requests)

    async def on_io_thread(self, work: Callable[[], T]) -> T:
        """Run ``work`` after what is being written, on the same thread."""
        return await asyncio.get_running_loop().run_in_executor(self._io, work)

    async def ready(self) -> None:
        """Return when no checkpoint is being written."""
        if self._writing is not None:
            await asyncio.wait({self._writing})

    def begin(self, run: RunRecord, active: ActiveState | None, adapters: AdapterState | None = None) -> None:
        """Write a checkpoint in the background; only when `ready`. A failure is left to the next one."""
        self._due = False
        blocks = dict(self._unsaved)
        self._writing = asyncio.ensure_future(self._write(Snapshot(run, blocks, active, adapters)))

    async def wait(self) -> None:
        """Return when the checkpoint begun last is on the disk. Raises StateError if it could not be written."""
        if self._writing is not None and (error := await self._writing) is not None:
            raise error

    async def _write(self, snapshot: Snapshot) -> StateError | None:
        try:
            await self.on_io_thread(lambda: self._store.save(snapshot))
        except StateError as error:
            if not self._failing:
                self._notice(str(error))
            self._failing = True
            return error
        if self._failing:
            self._notice(f"Checkpoints are saved again, from step {snapshot.run.step}.")
        self._failing = False
        for index, block in snapshot.blocks.items():
            if self._unsaved.get(index) is block:
                del self._unsaved[index]
        return None

    # -- requests -------------------------------------------------------------------------------------------

    async def requested(self) -> int | None:
        """Wait for the next checkpoint that `answer` has written; its step, or None when no other comes.

        Raises StateError if it could not be written. Whoever waits may go away: nobody else notices.
        """
        if self._closed:
            return None
        request: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._requests.append(request)
        return await asyncio.shield(request)

    async def answer(self, save: Callable[[], Awaitable[int]]) -> None:
        """If anybody asked for a checkpoint, have ``save`` write one, and tell them its step or its error."""
        if not self._requests:
            return
        # Who asks from now on wants what is trained until then.
        asked, self._requests = self._requests, []
        try:
            step = await save()
        except StateError as error:
            for request in asked:
                request.set_exception(error)
        except BaseException:
            self._requests = asked + self._requests  # `close` tells them
            raise
        else:
            for request in asked:
                request.set_result(step)

    async def close(self) -> None:
        """Finish what is being written and end the thread."""
        self._closed = True
        for request in self._requests:
            request.set_result(None)
        self._requests.clear()
        try:
            await self.ready()
        finally:
            self._io.shutdown(wait=False)
