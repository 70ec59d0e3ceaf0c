"""Some `decad start` processes on this machine: started, watched, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from decad._proto import control_pb2 as pb
from decad.cli.client import get_status
from decad.errors import NoDaemonError

POLL_S = 0.5
REPORT_S = 15.0
"""Between two lines of progress where the output is not a terminal."""
DISCOVERY_S = 40.0
"""For daemons that are up to find each other by multicast."""
STOP_S = 15.0


@dataclass
class Daemon:
    """One peer's process."""

    name: str
    state_dir: Path
    log: Path
    process: subprocess.Popen[bytes]
    status: pb.StatusReply = field(default_factory=pb.StatusReply)


class Fleet:
    """Daemons that run at the same time; leaving the context ends them all, each by its own process id."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemons: list[Daemon] = []
        self._shown = 0
        self._reported = 0.0

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start one peer with a state directory of its own under this fleet's directory."""
        state_dir, log = self.directory / name, self.directory / f"{name}.log"
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "decad.cli.main",
            "start",
            "--name",
            name,
            "--state-dir",
            str(state_dir),
        ]
        # Several peers share the machine: one thread each, or they wait for one another's threads.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--threads", "1", *arguments], stdout=output, stderr=output, env=environment
            )
        self.daemons.append(Daemon(name, state_dir, log, process))

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for daemon in self.daemons:
            try:
                daemon.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                daemon.process.kill()
                daemon.process.wait()

    def found_each_other(self) -> bool:
        """Wait until every daemon has a link to every other; False if multicast is not to be had here."""
        up_since = None
        others = len(self.daemons) - 1
        while True:
            self.poll()
            replies = [daemon.status for daemon in self.daemons]
            if all(sum(n.state == "alive" for n in reply.neighbours) >= others for reply in replies):
                return True
            if any(reply.mdns == "unavailable" for reply in replies):
                return False
            if all(reply.listen for reply in replies):
                up_since = up_since or time.monotonic()
                if time.monotonic() - up_since > DISCOVERY_S:
                    return False
            time.sleep(POLL_S)

    def watch(self, steps: int) -> None:
        """Show progress until every daemon has ended. Exits the demo if one fails."""
        while any(daemon.process.poll() is None for daemon in self.daemons):
            self.poll()
            self._show(steps)
            time.sleep(POLL_S)
        self._shown = 0

    def poll(self) -> None:
        """Ask every daemon for its status; keep the last one of those that do not answer."""
        for daemon in self.daemons:
            try:
                daemon.status = get_status(daemon.state_dir)
            except NoDaemonError:
                if daemon.process.poll():
                    last = daemon.log.read_text(errors="replace").strip().splitlines()[-1:]
                    sys.exit(f"demo: the daemon {daemon.name} failed, see {daemon.log}: {''.join(last)}")

    def _show(self, steps: int) -> None:
        lines = [self._line(daemon, steps) for daemon in self.daemons]
        if sys.stdout.isatty():
            up = f"\x1b[{self._shown}F" if self._shown else ""
            print(up + "".join(f"\x1b[2K{line}\n" for line in lines), end="", flush=True)
            self._shown = len(lines)
        elif time.monotonic() - self._reported >= REPORT_S:
            self._reported = time.monotonic()
            print("\n".join(lines), flush=True)

    @staticmethod
    def _line(daemon: Daemon, steps: int) -> str:
        reply = daemon.status
        step, training = reply.progress.step, reply.training
        alive = sum(n.state == "alive" for n in reply.neighbours)
        steps = reply.progress.steps_total or steps  # settling comes after those of the training
        bar = "#" * round(20 * step / steps) if steps else ""
        doing = reply.activity or "starting"
        loss = f"loss {training.loss:.3f}" if training.steps_taken else ""
        eta = f"{reply.progress.eta_s:.0f} s left" if reply.progress.eta_s > 0 else ""
        cells = [f"  {daemon.name:<10}", f"[{bar:<20}]", f"step {step:>3}/{steps}", f"{doing:<10}"]
        return "  ".join(
            [*cells, f"{reply.progress.block_name:<10}", f"{loss:<10}", f"{alive} neighbours", eta]
        )
