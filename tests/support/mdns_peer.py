"""A process that announces a peer and writes what it hears to its standard output, one event a line.

    python mdns_peer.py PORT RUN INTERFACE LISTEN_HOST

Lines: ``started``, then ``found ADDRESSES``, ``lost ADDRESSES`` or ``failed MESSAGE``. SIGTERM ends it with a
goodbye. `Driver` is the other side of this conversation, for tests.
"""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import uvloop

import decad
from decad.errors import NetworkError
from decad.membership.announcement import Recognition
from decad.membership.interfaces import choose_interfaces, present_interfaces
from decad.membership.mdns import Found, Lost, ServiceDiscovery

EVENT_S = 20.0
"""Seconds that a test waits for an event: several questions and answers, on a machine that is busy."""

Start = Callable[[list[str], dict[str, str]], subprocess.Popen[str]]
"""Starts argv with an environment and a pipe for its output: here or in another namespace."""


def start_here(argv: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env, text=True)


class Driver:
    """Runs the process and hands out its lines."""

    def __init__(self, start: Start, *arguments: str) -> None:
        # Not installed, perhaps; a process in another namespace sees the same files.
        env = os.environ | {"PYTHONPATH": str(Path(decad.__file__).parents[1])}
        self._process = start([sys.executable, "-W", "error", __file__, *arguments], env)
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())

    def expect(self, line: str) -> list[str]:
        """Read until ``line`` comes; what came before it (strangers on this network may be heard too)."""
        heard: list[str] = []
        try:
            while (last := self._lines.get(timeout=EVENT_S)) != line:
                heard.append(last)
        except queue.Empty:
            raise AssertionError(f"not heard within {EVENT_S} s: {line!r}; heard: {heard}") from None
        return heard

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self._process.terminate()
        return self._finish()

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self._process.kill()
        self._finish()

    def _finish(self) -> int:
        code = self._process.wait(EVENT_S)
        self._reader.join(EVENT_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code


async def _main(port: str, run: str, interface: str, listen_host: str) -> None:
    def write(event: Found | Lost) -> None:
        if isinstance(event, Found):
            print("found", ",".join(event.addresses), flush=True)
        else:
            print("lost", ",".join(event.addresses), flush=True)

    where = choose_interfaces(interface, listen_host, present_interfaces())
    print("started", flush=True)
    running = asyncio.create_task(ServiceDiscovery(int(port), Recognition(run=run), where, write).run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        await running
    except NetworkError as error:
        print("failed", error, flush=True)
    except asyncio.CancelledError:
        pass


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
