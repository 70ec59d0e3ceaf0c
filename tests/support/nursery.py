"""Starts `decad` processes fast: torch and transformers are imported once, and each process is a fork of that.

An import costs seconds of CPU, of which a set of tests with twenty daemons would spend most of its time. A fork
runs the same `decad.cli.main.main` with arguments, environment, directory and files of its own; that
`python -m decad.cli.main` works without this is a test of its own (tests/integration/test_daemon_signals.py).

    python nursery.py       orders on standard input, answers on standard output, one JSON a line
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import decad

ROOT = Path(decad.__file__).parents[1]
CLONE_NEWNET = 0x4000_0000


def environment() -> dict[str, str]:
    """Of a daemon under test: one thread, nothing of decad's from outside, the package that is tested."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DECAD_")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # decad.cli.start sets the last one before it imports grpc, which a fork has imported already.
    return kept | threads | {"PYTHONPATH": path, "GRPC_VERBOSITY": "NONE"}


class Nursery:
    """The process that forks, from this side. Its children end with it, however it ends."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def fork(
        self,
        arguments: Sequence[str],
        stdout: Path,
        stderr: Path,
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        namespace: str = "",
        before: str = "",
    ) -> int:
        """Start ``decad ARGUMENTS`` and return its process id.

        ``namespace``: of the network, by name; ``before``: Python to run in the process first.
        """
        files = {"stdout": str(stdout), "stderr": str(stderr), "cwd": str(cwd)}
        order = {"fork": list(arguments), "env": dict(env or {}), "namespace": namespace, "before": before}
        return int(self._ask(order | files))

    def poll(self, pid: int) -> int | None:
        """The exit code of a process, minus the signal that killed it, None while it runs. Ask once for each end."""
        code = self._ask({"poll": pid})
        return None if code is None else int(code)

    def _ask(self, order: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _serve() -> None:
    _import_everything()
    children: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "fork" in order:
            pid = os.fork()
            if pid == 0:
                _become(order)
            children.add(pid)
            answer: int | None = pid
        else:
            pid, status = os.waitpid(order["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
            children.discard(pid)
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _import_everything() -> None:
    import transformers.models.llama.modeling_llama

    import decad.cli.results
    import decad.daemon.peer  # noqa: F401

    _ = transformers.AutoModelForCausalLM, transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast
    # What a fork takes over of other threads is locks that nobody will ever release.
    assert len(os.listdir("/proc/self/task")) == 1


def _become(order: Mapping[str, Any]) -> None:
    """Be ``decad`` from here on. Does not return."""
    for number, file in ((1, order["stdout"]), (2, order["stderr"])):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if order["namespace"]:
        handle = os.open(f"/run/netns/{order['namespace']}", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(handle)
    # A shell starts what it puts into the background with the interrupt ignored, and so would be what we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order["cwd"])
    os.environ.update(order["env"])
    sys.argv = ["decad", *order["fork"]]
    exec(order["before"], {})
    from decad.cli.main import main

    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    # Threads are waited for and exit handlers run, as at every exit. Taking down all that torch imported is not
    # waited for: after a fork that means to copy most of the memory.
    threading._shutdown()  # type: ignore[attr-defined]  # private, and just what is left out by _exit
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
    os._exit(0)  # taking down all that torch imported takes seconds on a busy machine
