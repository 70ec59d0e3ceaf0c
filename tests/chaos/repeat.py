"""The faults of `make test`, twenty times in a row on a busy machine: `make chaos-repeat`.

    python tests/chaos/repeat.py [--times 20] [--busy 2] [--log FILE]

Everything that pytest prints goes to the log. Goes on after a failure, and exits with 1 if there was any.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUSY = "while True: pass"


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--busy", type=int, default=2, help="processes that do nothing but compute meanwhile")
    parser.add_argument("--log", type=Path, default=Path("chaos-repeat.log"))
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    passed = 0
    with ExitStack() as stack, chosen.log.open("w", encoding="utf-8") as log:
        for _ in range(chosen.busy):
            load = subprocess.Popen([sys.executable, "-c", BUSY])
            stack.callback(load.wait)
            stack.callback(load.kill)
        for number in range(1, chosen.times + 1):
            begun = time.monotonic()
            code, printed = _once()
            passed += code == 0
            how = "passed" if code == 0 else "FAILED"
            log.write(f"--- {number}: {how}\n{printed}\n")
            log.flush()
            print(f"{number} of {chosen.times}: {how} in {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{passed} of {chosen.times} passed beside {chosen.busy} busy processes; see {chosen.log}")
    return int(passed < chosen.times)


def _once() -> tuple[int, str]:
    """Exit code of pytest, and what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "tests/chaos"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as tests:
        try:
            printed, _ = tests.communicate()
        except BaseException:  # interrupted: namespaces, mounts and daemons are taken down by their fixtures
            tests.send_signal(signal.SIGINT)
            tests.wait()
            raise
    return tests.returncode, printed


if __name__ == "__main__":
    sys.exit(main())
