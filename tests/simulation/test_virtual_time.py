"""The virtual clock on which whole peers run: it jumps, and does not hide that nobody can go on."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.virtual import Process, StandstillError, VirtualThread, run


def test_time_jumps_to_the_next_timer() -> None:
    async def main() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(86_400)


def test_who_waits_for_nothing_is_told_so() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StandstillError, match="every task waits"):
        run(main())


def test_a_loop_that_never_waits_is_told_so() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_soon(again)

        again()
        await asyncio.Event().wait()

    with pytest.raises(StandstillError, match="no time has passed"):
        run(main())


def test_what_began_on_a_thread_ends_though_nobody_waits_for_it() -> None:
    done: list[int] = []

    async def main() -> None:
        thread = VirtualThread(lambda call: 2.0)
        first, second = thread.submit(done.append, 1), thread.submit(done.append, 2)
        await asyncio.sleep(1)
        first.cancel()
        second.cancel()
        await asyncio.sleep(5)

    run(main())
    assert done == [1]


def test_nothing_of_a_killed_process_goes_on() -> None:
    written: list[int] = []

    async def main() -> None:
        async def work() -> None:
            beside = asyncio.ensure_future(asyncio.sleep(3600))
            with ThreadPoolExecutor(1) as io:
                await asyncio.get_running_loop().run_in_executor(io, written.append, 1)
                await asyncio.get_running_loop().run_in_executor(io, written.append, 2)
            await beside

        process = Process(lambda: 2.0)
        process.start(work(), "work", {})
        await asyncio.sleep(3)
        await process.kill()
        assert not process.tasks
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.sleep(5)

    run(main())
    assert written == [1]
