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
POLL_S = 0.03

FAST = (
    *("--no-mdns", "--seq-len", "32", "--batch-size", "2", "--inner-steps", "4"),
    *("--eval-batches", "1", "--threads", "1"),
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
        """Start ``decad ARGUMENTS``; for the others see `Nursery.fork`. What it writes goes into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self._nursery = nursery
        self._out, self._err = folder / "stdout", folder / "stderr"
        # A daemon that is started again writes on in the same files.
        self._began = len(_read(self._out)), len(_read(self._err))
        self.pid = nursery.fork(
            arguments, self._out, self._err, cwd=cwd, env=env, namespace=namespace, before=before
        )
        self._code: int | None = None

    @property
    def out(self) -> str:
        """Its standard output so far."""
        return _read(self._out)[self._began[0] :]

    @property
    def log(self) -> str:
        """Its standard error so far."""
        return _read(self._err)[self._began[1] :]

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
        return Result(code, self.out, self.log)

    def until_log(self, pattern: str, patience: float = PATIENCE_S) -> re.Match[str]:
        """The first match of ``pattern`` in its standard error."""
        deadline = time.monotonic() + patience
        while True:
            ended = self.poll() is not None or time.monotonic() > deadline
            if found := re.search(pattern, self.log):
                return found
            if ended:
                raise AssertionError(f"{pattern!r} is not in the log (exit code {self.poll()}):\n{self.log}")
            time.sleep(POLL_S)

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
    ) -> None:
        """``arguments``: all of them; ``state_dir``: what they say of it."""
        self.state_dir = state_dir
        folder = state_dir.with_name(f"{state_dir.name}-output")
        super().__init__(nursery, folder, arguments, cwd=cwd, env=env, namespace=namespace, before=before)

    def status(self) -> pb.StatusReply:
        """Raises NoDaemonError."""
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

    def until_step(self, step: int) -> pb.StatusReply:
        """Wait until it has taken the step before ``step``."""
        return self.until(lambda reply: reply.progress.step >= step)

    @property
    def address(self) -> str:
        """host:port where it listens."""
        return self.until_log(r"listens on (\S+)")[1]


class Fleet:
    """Daemons and other commands of one test, with one model and one directory."""

    def __init__(self, nursery: Nursery, folder: Path, model: Path, texts: Path, stack: ExitStack) -> None:
        self.folder, self.model, self.texts = folder, model, texts
        self.daemons: dict[str, Daemon] = {}
        self._nursery, self._stack = nursery, stack

    def __getitem__(self, name: str) -> Daemon:
        return self.daemons[name]

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
        """A daemon called ``name`` with a state directory of that name, and text of its own if it is a, b or c.

        ``options`` come after all the others: of a flag that is given twice the last one counts, but for lists, which
        add up; data of its own is then the only one.
        """
        state_dir, text = self.folder / name, self.texts / f"{name}.txt"
        here = ["--name", name, "--state-dir", str(state_dir), "--model", str(self.model)]
        data = [] if "--data" in options else ["--data", str(text if text.exists() else self.texts)]
        self.daemons[name] = daemon = Daemon(
            self._nursery,
            state_dir,
            [*(["--debug"] if debug else []), "start", *here, *data, *defaults, *options],
            cwd=self.folder,
            env=env,
            namespace=namespace,
            before=before,
        )
        self._stack.callback(daemon.end)
        return daemon

    def start_bare(self, state_dir: Path, *arguments: str, cwd: Path) -> Daemon:
        """``decad ARGUMENTS`` as they are; ``state_dir``: the one that they, or a file, lead to."""
        self.daemons[state_dir.name] = daemon = Daemon(self._nursery, state_dir, arguments, cwd=cwd)
        self._stack.callback(daemon.end)
        return daemon

    def start_three(self, *options: str, before: str = "") -> tuple[Daemon, Daemon, Daemon]:
        """Daemons a, b and c, which wait for each other: b is told of a, and c of b alone."""
        waiting = [*options, "--min-peers", "2"]
        a = self.start("a", *waiting, before=before)
        b = self.start("b", *waiting, "--peers", a.address, before=before)
        c = self.start("c", *waiting, "--peers", b.address, before=before)
        return a, b, c

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Result:
        """A command that ends by itself."""
        return self.launch(*arguments, env=env, cwd=cwd).result()

    def launch(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        before: str = "",
    ) -> Command:
        """A command that is to be ended."""
        folder = self.folder / f"command-{sum(1 for _ in self.folder.glob('command-*'))}"
        command = Command(self._nursery, folder, arguments, cwd=cwd or self.folder, env=env, before=before)
        self._stack.callback(command.end)
        return command


@contextmanager
def fleet(nursery: Nursery, folder: Path, model: Path, texts: Path) -> Iterator[Fleet]:
    """Start daemons; those that still run in the end are killed, each by its own process id."""
    with ExitStack() as stack:
        yield Fleet(nursery, folder, model, texts, stack)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
