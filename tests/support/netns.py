"""Machines on one network, without machines: network namespaces joined by a bridge.

    with Namespaces(3) as net:
        peer = net.exec(0, ["decad", "run", "--listen", f"{net.address(0)}:7700"])
        net.cut(0)
        net.heal(0)

The bridge lives in a namespace of its own, so neither the host's firewall (Docker leaves FORWARD at DROP)
nor its interface names matter, and nothing of it can be seen outside.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any, Self

import pytest

COMMAND_S = 20.0
"""Seconds that one `ip` command may take."""

STOP_S = 5.0
"""Seconds that a process has between SIGTERM and SIGKILL when its namespace goes."""

_serial = itertools.count()


@functools.cache
def unavailable() -> str:
    """Why this machine cannot make network namespaces; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command ip (iproute2)"
    probe = f"decad-{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
        _ip("netns", "delete", probe)
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.strip()}"
    return ""


class Namespaces:
    """``count`` namespaces on one bridge and one subnet. Each has lo and eth0, both up."""

    def __init__(self, count: int) -> None:
        serial = next(_serial)
        self._prefix = f"decad-{os.getpid()}-{serial}"
        self._bridge = f"{self._prefix}-bridge"
        # Of 198.18.0.0/15, which is set apart for tests of networks (RFC 2544).
        self._subnet = f"198.18.{serial % 256}"
        self._count = count
        self._processes: list[subprocess.Popen[str]] = []
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        if reason := unavailable():
            pytest.skip(reason)
        with ExitStack() as undo:
            self._add(undo, self._bridge)
            # Without snooping off, a bridge that sees no IGMP querier stops forwarding multicast after a
            # while.
            _ip("-n", self._bridge, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
            _ip("-n", self._bridge, "link", "set", "br0", "up")
            for i in range(self._count):
                self._add(undo, self.name(i))
                veth = ("type", "veth", "peer", "name", "eth0", "netns", self.name(i))
                _ip("-n", self._bridge, "link", "add", f"port{i}", *veth)
                _ip("-n", self._bridge, "link", "set", f"port{i}", "master", "br0", "up")
                _ip("-n", self.name(i), "address", "add", f"{self.address(i)}/24", "brd", "+", "dev", "eth0")
                _ip("-n", self.name(i), "link", "set", "eth0", "up")
            undo.callback(self._stop_processes)
            self._cleanup = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def name(self, i: int) -> str:
        """The namespace's name, as `ip netns` knows it."""
        return f"{self._prefix}-{i}"

    def address(self, i: int) -> str:
        """Its IPv4 address on eth0."""
        return f"{self._subnet}.{i + 1}"

    def exec(
        self,
        i: int,
        argv: Sequence[str],
        *,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a process in namespace ``i`` (text mode, nothing on its input); it is stopped with the
        namespaces."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name(i), *argv],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=env,
            text=True,
        )
        self._processes.append(process)
        return process

    def cut(self, i: int) -> None:
        """Pull the cable of ``i``: its interface stays up, and nothing comes or goes."""
        _ip("-n", self._bridge, "link", "set", f"port{i}", "down")

    def heal(self, i: int) -> None:
        """Put the cable back."""
        _ip("-n", self._bridge, "link", "set", f"port{i}", "up")

    def _add(self, undo: ExitStack, name: str) -> None:
        _ip("netns", "add", name)
        undo.callback(_ip, "netns", "delete", name)
        _ip("-n", name, "link", "set", "lo", "up")

    def _stop_processes(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_S)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        for i in range(self._count):
            for pid in _ip("netns", "pids", self.name(i)).split():
                # A grandchild that outlived its parent would keep the namespace and its interfaces alive.
                os.kill(int(pid), signal.SIGKILL)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True, timeout=COMMAND_S)
    return done.stdout
