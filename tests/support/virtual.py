"""An event loop whose clock jumps: when nothing is ready, it is the time of the next timer.

Hours of timers pass in seconds, and no test has to wait for a busy machine. What runs depends on nothing but the
calls made: no threads, no sockets, and tasks that hash to the order of their creation, so that sets of them (those
of `asyncio.wait` and of task groups) are walked in the same order in every process.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

TURNS_AT_ONCE = 100_000
"""Turns of the loop within one instant: a schedule's busiest instants take hundreds."""


class StandstillError(Exception):
    """Time cannot go on: everybody waits for somebody, or somebody never waits."""


class VirtualTask(asyncio.Task[Any]):
    """A task that hashes to its number."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> None:
        self._number = number
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.SelectorEventLoop):
    """``time()`` is in virtual seconds since the loop was made."""

    def __init__(self) -> None:
        self._now = 0.0
        self._tasks = 0
        super().__init__(_Jumps(self._pass))
        self._clock_resolution = 1e-9
        self.set_task_factory(_task_of_a_process)

    def time(self) -> float:
        return self._now

    def next_number(self) -> int:
        """Of the next task."""
        self._tasks += 1
        return self._tasks

    def run_in_executor(  # type: ignore[override]  # asyncio's own is typed for every kind of executor
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run ``func`` here and now, or as soon as the process's disk comes to it if it has an executor of its own."""
        process = PROCESS.get()
        thread = VirtualThread(lambda call: 0.0) if executor is None or process is None else process.io
        return thread.submit(func, *args)

    def _pass(self, seconds: float) -> None:
        self._now += seconds


class _Jumps(selectors.SelectSelector):
    """Waits for no file: time passes instead."""

    def __init__(self, pass_time: Callable[[float], None]) -> None:
        super().__init__()
        self._pass_time = pass_time
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StandstillError("every task waits, and no timer runs")
        if timeout > 0:
            self._pass_time(timeout)
            self._turns = 0
            return []
        self._turns += 1
        if self._turns > TURNS_AT_ONCE:
            self._turns = 0  # tasks are yet to be cancelled
            raise StandstillError(f"{TURNS_AT_ONCE} turns of the loop, and no time has passed")
        return []


class _Job(NamedTuple):
    call: Callable[[], Any]
    seconds: float
    future: asyncio.Future[Any]


class VirtualThread:
    """Runs calls one after the other, each at the end of the virtual ``seconds(call)`` that it takes.

    What has begun ends, whether anybody waits for it or not, as in a thread; what is no longer wanted does not begin.
    """

    def __init__(self, seconds: Callable[[Callable[..., Any]], float]) -> None:
        self._seconds = seconds
        self._queue: deque[_Job] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> asyncio.Future[T]:
        """Have ``call`` run after those before it."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append(_Job(partial(call, *args, **kwargs), self._seconds(call), future))
        if self._timer is None:
            self._next()
        return future

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._timer is not None

    def kill(self) -> None:
        """End in the middle of whatever it is at."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _next(self) -> None:
        self._timer = None
        while self._queue:
            job = self._queue.popleft()
            if job.future.cancelled():
                continue
            if job.seconds > 0:
                self._timer = asyncio.get_running_loop().call_later(job.seconds, self._end, job)
                return
            _run(job)

    def _end(self, job: _Job) -> None:
        _run(job)
        self._next()


def _run(job: _Job) -> None:
    try:
        result = job.call()
    except Exception as error:
        if not job.future.cancelled():
            job.future.set_exception(error)
    else:
        if not job.future.cancelled():
            job.future.set_result(result)


class Process:
    """What one daemon has of the machine: its tasks, and the thread that writes to the disk.

    ``disk_s``: virtual seconds that a call on the disk takes.
    """

    def __init__(self, disk_s: Callable[[], float]) -> None:
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.io = VirtualThread(lambda call: disk_s())

    def start(
        self, work: Coroutine[Any, Any, T], name: str, variables: Mapping[ContextVar[Any], Any]
    ) -> asyncio.Task[T]:
        """Run ``work``, and whatever tasks it starts, as this process, with these context variables."""
        context = copy_context()
        for variable, value in {PROCESS: self, **variables}.items():
            context.run(variable.set, value)
        return asyncio.get_running_loop().create_task(work, name=name, context=context)

    def adopt_current_task(self) -> None:
        """The running task was started from elsewhere, and is this process's from here on."""
        task = asyncio.current_task()
        assert task is not None
        if (other := PROCESS.get()) is not None:
            other.tasks.pop(task, None)
        PROCESS.set(self)
        self.add(task)

    def add(self, task: asyncio.Task[Any]) -> None:
        """A task of this process begins."""
        self.tasks[task] = None
        task.add_done_callback(lambda done: self.tasks.pop(done, None))

    async def kill(self) -> None:
        """End everything where it stands."""
        self.io.kill()
        while self.tasks:
            for task in self.tasks:
                task.cancel()
            await asyncio.wait(list(self.tasks))


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)
"""Whose code is running; None: the test's."""


def _task_of_a_process(
    loop: asyncio.AbstractEventLoop, work: Any, *, context: Context | None = None
) -> VirtualTask:
    assert isinstance(loop, VirtualLoop)
    task = VirtualTask(loop.next_number(), work, loop=loop, context=context)
    process = PROCESS.get() if context is None else context.get(PROCESS)
    if process is not None:
        process.add(task)
    return task


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
