"""A `decad start` process under test, and what one does with it: wait for what it says, stop it, kill it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from decad._proto import control_pb2 as pb
from decad.cli.client import get_status
from decad.errors import NoDaemonError
from support.nursery import Nursery

PATIENCE_S = 40.0
"""How long a test waits for what takes a second or two on a machine that has nothing else to do."""
POLL_S = 0.05

FAST = (
    "--no-mdns",
    "--seq-len",
    "32",
    "--batch-size",
    "2",
    "--inner-steps",
    "4",
    "--eval-batches",
    "1",
    "--threads",
    "1",
)
"""Steps of some milliseconds, a phase every four of them."""


@dataclass(frozen=True)
class Result:
    """A command that has ended."""

    code: int
    out: str
    err: str


class Command:
    """One process of the `decad` command."""

    def __init__(
        self,
        nursery: Nursery,
        folder: Path,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        namespace: str = "",
        before: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._nursery = nursery
        self.out, self.err = folder / "stdout", folder / "stderr"
        self.began = len(self.log)
        """Where in the log this process begins: a daemon that is started again writes on in the same file."""
        self.pid = nursery.fork(
            arguments, self.out, self.err, cwd=cwd, env=env, namespace=namespace, before=before
        )
        self._code: int | None = None

    @property
    def log(self) -> str:
        """Everything on standard error so far."""
        return self.err.read_text(encoding="utf-8") if self.err.exists() else ""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        if self._code is None:
            self._code = self._nursery.poll(self.pid)
        return self._code

    def result(self, patience: float = PATIENCE_S) -> Result:
        """Wait for its end."""
        deadline = time.monotonic() + patience
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"still runs after {patience:.0f} s:\n{self.log}")
            time.sleep(POLL_S)
        return Result(code, self.out.read_text(encoding="utf-8"), self.log[self.began :])

    def signal(self, number: signal.Signals) -> None:
        """Unless it has ended already."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def end(self) -> None:
        """Kill it, if it still runs."""
        self.signal(signal.SIGKILL)
        self.result()


class Daemon(Command):
    """A `decad start` process."""

    def __init__(
        self,
        nursery: Nursery,
        state_dir: Path,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        namespace: str = "",
        before: str = "",
        debug: bool = False,
    ) -> None:
        self.state_dir = state_dir
        debugging = ["--debug"] if debug else []
        super().__init__(
            nursery,
            state_dir.with_name(f"{state_dir.name}-output"),
            [*debugging, "start", "--state-dir", str(state_dir), *arguments],
            cwd=cwd,
            env=env,
            namespace=namespace,
            before=before,
        )

    def status(self) -> pb.StatusReply:
        return get_status(self.state_dir)

    def until(
        self, wanted: Callable[[pb.StatusReply], object], patience: float = PATIENCE_S
    ) -> pb.StatusReply:
        """The first status of which ``wanted`` is true."""
        deadline, last = time.monotonic() + patience, ""
        while self.poll() is None and time.monotonic() < deadline:
            try:
                reply = self.status()
            except NoDaemonError as error:
                last = str(error)
            else:
                if wanted(reply):
                    return reply
                last = str(reply)
            time.sleep(POLL_S)
        raise AssertionError(f"not within {patience:.0f} s (exit code {self.poll()}).\n{last}\n{self.log}")

    def until_log(self, pattern: str, patience: float = PATIENCE_S) -> re.Match[str]:
        """The first match of ``pattern`` in what this process logged."""
        deadline = time.monotonic() + patience
        while True:
            ended = self.poll() is not None or time.monotonic() > deadline
            if found := re.search(pattern, self.log[self.began :]):
                return found
            if ended:
                raise AssertionError(f"{pattern!r} is not in the log (exit code {self.poll()}):\n{self.log}")
            time.sleep(POLL_S)

    @property
    def address(self) -> str:
        """host:port where it listens."""
        return self.until_log(r"listens on (\S+)")[1]


@contextmanager
def fleet(nursery: Nursery, folder: Path, model: Path, data: Path) -> Iterator[Fleet]:
    """Start daemons; those that still run in the end are killed."""
    with ExitStack() as stack:
        yield Fleet(nursery, folder, model, data, stack)


class Fleet:
    """Daemons of one test that share a model."""

    def __init__(self, nursery: Nursery, folder: Path, model: Path, data: Path, stack: ExitStack) -> None:
        self.nursery, self.folder, self.model, self.data = nursery, folder, model, data
        self._stack = stack

    def start(
        self,
        name: str,
        *options: str,
        defaults: Sequence[str] = FAST,
        env: Mapping[str, str] | None = None,
        namespace: str = "",
        before: str = "",
        debug: bool = False,
    ) -> Daemon:
        """A daemon called ``name``, with a state directory of its own, which a second start finds again."""
        common = ["--name", name, "--model", str(self.model), "--data", str(self.data), *defaults]
        daemon = Daemon(
            self.nursery,
            self.folder / name,
            [*common, *options],  # of a flag given twice the last one counts
            cwd=self.folder,
            env=env,
            namespace=namespace,
            before=before,
            debug=debug,
        )
        self._stack.callback(daemon.end)
        return daemon

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
        """A command that ends by itself."""
        number = sum(1 for _ in self.folder.glob("command-*"))
        folder = self.folder / f"command-{number}"
        command = Command(self.nursery, folder, arguments, cwd=self.folder, env=env)
        self._stack.callback(command.end)
        return command.result()
