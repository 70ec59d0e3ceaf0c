"""The one torch thread: everything of more than a millisecond runs here, in order."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

SWITCH_INTERVAL_S = 0.0005
"""The compute thread runs Python beside the loop; the default of 5 ms would add that much to every message."""


class ComputeThread:
    """Runs calls one after the other on a thread of its own; a call that began is always finished."""

    def __init__(self, threads: int = 0) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._pool = ThreadPoolExecutor(
            1, "compute", torch.set_num_threads, (threads or torch.get_num_threads(),)
        )
        self._pool.submit(lambda: None).result()
        # torch keeps the count per thread: the loop adds chunks of 1 MiB, which one thread does best.
        torch.set_num_threads(1)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The call's result. Cancelling the wait does not stop the call, but nothing runs beside it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: call(*args, **kwargs))

    def close(self) -> None:
        """Wait for the running call and end the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)
