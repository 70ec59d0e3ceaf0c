"""`decad start` under a service manager: what it says to the manager's socket, and the unit file that it ships with."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import PATIENCE_S, Fleet
from support.nursery import ROOT

UNIT = ROOT / "deploy" / "decad.service"


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE_S)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def told(self) -> str:
        """The next datagram."""
        return self._socket.recv(4096).decode()

    def until(self, wanted: str) -> list[str]:
        """All that is told up to the first datagram that begins with ``wanted``, and that one."""
        heard = [self.told()]
        while not heard[-1].startswith(wanted):
            heard.append(self.told())
        return heard

    def silent_for(self, seconds: float) -> bool:
        self._socket.settimeout(seconds)
        try:
            self.told()
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@decad-test-{os.getpid()}"
    manager = Manager(address)
    yield manager
    manager.close()


def _environment(manager: Manager, watchdog_s: float) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}


def test_tells_that_it_is_ready_what_it_does_that_it_lives_and_that_it_ends(
    peers: Fleet, manager: Manager
) -> None:
    daemon = peers.start("a", env=_environment(manager, 0.3))
    assert manager.told() == "READY=1"
    assert daemon.status().pid == daemon.pid  # what is ready answers
    manager.until("STATUS=step ")
    manager.until("WATCHDOG=1")
    daemon.signal(signal.SIGTERM)
    assert daemon.result().code == 0
    assert manager.until("STOPPING=1").count("READY=1") == 0


def test_a_daemon_that_is_done_says_that_it_ends(peers: Fleet, manager: Manager) -> None:
    daemon = peers.start("a", "--steps", "2", env=_environment(manager, 0))
    assert daemon.result().code == 0
    heard = manager.until("STOPPING=1")
    assert heard[0] == "READY=1"
    assert "WATCHDOG=1" not in heard  # nobody asked for it


def test_a_daemon_that_cannot_start_is_never_ready(peers: Fleet, manager: Manager) -> None:
    daemon = peers.start("a", "--listen", "0.0.0.0:0", env=_environment(manager, 0.3))
    assert daemon.result().code == 2
    assert manager.silent_for(0.1)


def test_a_manager_that_is_gone_does_not_end_the_training(peers: Fleet, manager: Manager) -> None:
    manager.close()
    daemon = peers.start("a", "--steps", "4", env=_environment(manager, 0.3))
    assert daemon.result().code == 0


def test_the_unit_file_is_sound(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: apt-get install systemd")
    # All that is changed is where decad is, since systemd looks whether it is there.
    unit, installed = tmp_path / UNIT.name, "/opt/decad/bin/decad"
    text = UNIT.read_text(encoding="utf-8")
    assert text.count(installed) == 1
    unit.write_text(text.replace(installed, sys.executable), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, complaints) == (0, []), done.stderr
