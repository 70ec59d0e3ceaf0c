"""Notices when the daemon is stuck, and writes down where: the stacks of all tasks and threads.

On a thread of its own, since what it watches for may hold the event loop. What counts is how long the watchdog
itself saw nothing move, second by second, so neither a suspended machine nor a stopped process looks stuck.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Self

log = logging.getLogger("decad")

TICK_S = 1.0
LOOP_S = 10.0
"""The event loop does nothing of more than a millisecond: so long, and neighbours take this peer for gone."""


class Watchdog:
    """``with Watchdog(...)`` on a running loop.

    ``pulse``: changes while all is well; ``patience``: seconds that it may stay the same just now, math.inf for ever;
    ``notice``: called on the loop with what to tell the operator. The stacks go to the log.
    """

    def __init__(
        self,
        pulse: Callable[[], Hashable],
        patience: Callable[[], float],
        notice: Callable[[str], None],
        *,
        tick_s: float = TICK_S,
        loop_s: float = LOOP_S,
    ) -> None:
        self._pulse, self._patience, self._notice = pulse, patience, notice
        self._tick_s, self._loop_s = tick_s, loop_s
        self._loop = asyncio.get_running_loop()
        self._answered = threading.Event()
        self._stopped = threading.Event()
        self.sound = True
        """False from when the daemon is found stuck until it moves again."""
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        last, still, silent = self._pulse(), 0.0, 0.0
        asked, seen = False, time.monotonic()
        while not self._stopped.wait(self._tick_s):
            now = time.monotonic()
            passed, seen = min(now - seen, 2 * self._tick_s), now
            if self._answered.is_set() or not asked:
                self._answered.clear()
                silent, asked = 0.0, True
                self._on_loop(self._answered.set)
            else:
                silent += passed
            pulse = self._pulse()
            still, last = (still + passed if pulse == last else 0.0), pulse
            if silent < self._loop_s and still < self._patience():
                if not self.sound:
                    log.warning("the daemon moves again")
                self.sound = True
            elif self.sound:
                self.sound = False
                self._tell(silent, still)

    def _tell(self, silent: float, still: float) -> None:
        what = (
            f"the event loop has been held up for {silent:.0f} s"
            if silent >= self._loop_s
            else f"nothing has moved for {still:.0f} s"
        )
        log.error("the daemon is stuck: %s\n%s", what, stacks(self._loop))
        self._on_loop(
            lambda: self._notice(
                f"This daemon was stuck: {what}. The stacks of all its tasks and threads are in the log: please "
                "report them."
            )
        )

    def _on_loop(self, call: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)


def stacks(loop: asyncio.AbstractEventLoop) -> str:
    """Where every other thread of the process and every task of ``loop`` is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
        if ident != threading.get_ident()
    ]
    for task in sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name()):
        frames = "".join(line for frame in task.get_stack() for line in traceback.format_stack(frame, 1))
        parts.append(f"task {task.get_name()}, {task.get_coro()}:\n{frames}")
    return "\n".join(parts)
