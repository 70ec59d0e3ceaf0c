"""Machines on one network, without machines: network namespaces joined by a bridge.

    with Namespaces(3) as net:
        peer = net.exec(0, ["decad", "run", "--listen", f"{net.address(0)}:7700"])
        net.cut(0)
        net.heal(0)
        net.split(0, 1)                             # from 2
        net.join()
        net.worsen(0, loss=0.05, delay_s=0.2)
        net.mend(0)

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
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pytest

from support import wire

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
        self._wires: dict[int, subprocess.Popen[str]] = {}
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        if reason := unavailable():
            pytest.skip(reason)
        with ExitStack() as undo:
            self._add(undo, self._bridge)
            # Without snooping off, a bridge that sees no IGMP querier stops forwarding multicast after a
            # while.
            for bridge in ("br0", "br1"):
                _ip("-n", self._bridge, "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
                _ip("-n", self._bridge, "link", "set", bridge, "up")
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

    def give(self, i: int, *addresses: str) -> None:
        """These are eth0's addresses from now on (with prefix length, as 198.18.0.9/24); none: it has none."""
        _ip("-n", self.name(i), "address", "flush", "dev", "eth0")
        for address in addresses:
            # Duplicates are looked for a second long, in which an IPv6 address does not work yet.
            now = ("nodad",) if ":" in address else ("brd", "+")
            _ip("-n", self.name(i), "address", "add", address, *now, "dev", "eth0")

    def cut(self, i: int) -> None:
        """Pull the cable of ``i``: its interface stays up, and nothing comes or goes."""
        _ip("-n", self._bridge, "link", "set", f"port{i}", "down")

    def heal(self, i: int) -> None:
        """Put the cable back."""
        _ip("-n", self._bridge, "link", "set", f"port{i}", "up")

    def split(self, *numbers: int) -> None:
        """Nothing goes between these and the others any more: they get a bridge of their own."""
        for i in numbers:
            _ip("-n", self._bridge, "link", "set", f"port{i}", "master", "br1")

    def join(self) -> None:
        """One bridge again."""
        for i in range(self._count):
            _ip("-n", self._bridge, "link", "set", f"port{i}", "master", "br0")

    def down(self, i: int) -> None:
        """Switch the interface of ``i`` off, as its operator may."""
        _ip("-n", self.name(i), "link", "set", "eth0", "down")

    def up(self, i: int) -> None:
        """Switch it on again."""
        _ip("-n", self.name(i), "link", "set", "eth0", "up")

    def worsen(self, i: int, *, loss: float = 0.0, delay_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
        """Put a bad cable between ``i`` and the bridge: all figures hold each way, 0 bytes a second for no limit."""
        _ip("-n", self._bridge, "link", "add", f"in{i}", "type", "veth", "peer", "name", f"out{i}")
        for interface in (f"in{i}", f"out{i}"):
            _ip("-n", self._bridge, "link", "set", interface, "up")
        for namespace, interface in ((self.name(i), "eth0"), (self._bridge, f"out{i}")):
            with wire.inside(namespace):
                wire.frames_as_on_a_cable(interface)
        program = ["ip", "netns", "exec", self._bridge, sys.executable, str(Path(wire.__file__))]
        figures = [f"port{i}", f"in{i}", str(loss), str(delay_s), str(bytes_per_s)]
        process = subprocess.Popen(
            [*program, *figures], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        self._wires[i] = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        _ip("-n", self._bridge, "link", "set", f"port{i}", "nomaster")
        _ip("-n", self._bridge, "link", "set", f"out{i}", "master", "br0")

    def mend(self, i: int) -> None:
        """Put a good cable in the place of the bad one."""
        self._end([self._wires.pop(i)])
        _ip("-n", self._bridge, "link", "delete", f"in{i}")
        _ip("-n", self._bridge, "link", "set", f"port{i}", "master", "br0")

    def _add(self, undo: ExitStack, name: str) -> None:
        _ip("netns", "add", name)
        undo.callback(_ip, "netns", "delete", name)
        _ip("-n", name, "link", "set", "lo", "up")

    def _stop_processes(self) -> None:
        self._end(self._processes)
        for i in range(self._count):
            for pid in _ip("netns", "pids", self.name(i)).split():
                # A grandchild that outlived its parent would keep the namespace and its interfaces alive.
                os.kill(int(pid), signal.SIGKILL)

    def _end(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_S)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True, timeout=COMMAND_S)
    return done.stdout
