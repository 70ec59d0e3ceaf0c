"""What a service manager is told of a daemon that is stuck, and what is taken from the environment."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from decad.daemon.service import ServiceManager


async def test_a_stuck_daemon_is_not_called_alive_until_it_moves_again(tmp_path: Path) -> None:
    moving, asked = asyncio.Event(), asyncio.Event()

    def sound() -> bool:
        asked.set()
        return moving.is_set()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(str(tmp_path / "notify"))
        service, loop = ServiceManager(str(tmp_path / "notify"), 0.03), asyncio.get_running_loop()
        async with asyncio.timeout(20), service.kept_told(sound, lambda: "step 7"):
            heard = [await loop.sock_recv(manager, 100) for _ in range(2)]
            assert heard == [b"READY=1", b"STATUS=step 7"]
            for _ in range(3):
                asked.clear()
                await asked.wait()
            with pytest.raises(BlockingIOError):
                manager.recv(100)
            moving.set()
            assert await loop.sock_recv(manager, 100) == b"WATCHDOG=1"
        while (last := await loop.sock_recv(manager, 100)) == b"WATCHDOG=1":
            pass
        assert last == b"STOPPING=1"


def test_the_variables_are_not_left_to_child_processes() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1", "HOME": "/"}
    ServiceManager.take_from(environ)
    assert environ == {"HOME": "/"}


def test_a_watchdog_that_is_meant_for_another_process_is_not_served() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "60000000"}
    mine = ServiceManager.take_from({**environ, "WATCHDOG_PID": str(os.getpid())})
    other = ServiceManager.take_from({**environ, "WATCHDOG_PID": str(os.getppid())})
    assert (mine._watchdog_s, other._watchdog_s) == (60.0, 0.0)
