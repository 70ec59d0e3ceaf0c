"""The one torch thread: everything of more than a millisecond runs here, in order."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

SWITCH_INTERVAL_S = 0.0005
"""The compute thread runs Python beside the loop; the default of 5 ms would add that much to every message."""


class ComputeThread:
    """Runs calls one after the other on a thread of its own; a call that began is always finished."""

    def __init__(self, threads: int = 0) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._pending: set[Future[Any]] = set()
        self._pool = ThreadPoolExecutor(
            1, "compute", torch.set_num_threads, (threads or torch.get_num_threads(),)
        )
        self._pool.submit(lambda: None).result()
        # torch keeps the count per thread: the loop adds chunks of 1 MiB, which one thread does best.
        torch.set_num_threads(1)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The call's result. Cancelling the wait does not stop the call, but nothing runs beside it."""
        future = self._pool.submit(call, *args, **kwargs)
        self._pending = {f for f in self._pending if not f.done()} | {future}
        return await asyncio.wrap_future(future)

    @property
    def busy(self) -> bool:
        """Whether a call is running, perhaps one that nobody waits for."""
        return any(future.running() for future in self._pending)

    def close(self, *, wait: bool = True) -> None:
        """Take no more calls, and end the thread after the running one; ``wait`` for that."""
        self._pool.shutdown(wait=wait, cancel_futures=True)
