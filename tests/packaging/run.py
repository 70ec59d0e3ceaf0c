"""The wheel as a user gets it: installed in a new environment, and the quick start gone through elsewhere.

    python tests/packaging/run.py DIST

DIST holds one wheel and one source distribution (`make dist-test`). Exits with 1 if something is not as it should.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from support.tiny import make_tiny_llama  # noqa: E402  # after sys.path

PATIENCE_S = 120.0
STEPS = 12


def expect(true: bool, what: str) -> None:
    """Say that something is so, or end the test."""
    if not true:
        sys.exit(f"dist-test: FAILED: {what}")
    print(f"ok    {what}", flush=True)


def look_into(wheel: Path, sdist: Path) -> None:
    """What the two hold."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    info = next(top for top in tops if top.endswith(".dist-info"))
    expect(tops == {"decad", info}, f"the wheel holds the package decad alone ({len(names)} files)")
    expect(f"{info}/licenses/LICENSE" in names, "the licence is in it")
    expect("decad/py.typed" in names, "so is py.typed")
    with tarfile.open(sdist) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    wanted = {
        "decad/cli/main.py",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "tests/conftest.py",
        "deploy/Dockerfile",
    }
    expect(wanted <= inside, f"the source distribution holds code, tests and deploy ({len(inside)} files)")


class Elsewhere:
    """A new environment with the wheel, and a directory that is not the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = folder / "venv" / "bin"
        self._environment = {
            key: value
            for key, value in os.environ.items()
            if key != "PYTHONPATH" and not key.startswith("DECAD_")
        }

    def install(self, wheel: Path) -> None:
        venv.create(self.folder / "venv", with_pip=True)
        constraints = str(ROOT / "constraints.txt")
        self.run("python", "-m", "pip", "install", "--quiet", "-c", constraints, str(wheel))

    def start(self, *command: str) -> subprocess.Popen[str]:
        path = [str(self._bin / command[0]), *command[1:]]
        return subprocess.Popen(
            path, cwd=self.folder, env=self._environment, stderr=subprocess.PIPE, text=True
        )

    def run(self, *command: str) -> str:
        """Standard output of a command that must succeed."""
        return self._done(*command, check=True)

    def answer(self, *command: str) -> str:
        """Standard output of a command that may fail for now."""
        return self._done(*command, check=False, stderr=subprocess.DEVNULL)

    def _done(self, *command: str, check: bool, stderr: int | None = None) -> str:
        path = [str(self._bin / command[0]), *command[1:]]
        return subprocess.run(
            path,
            cwd=self.folder,
            env=self._environment,
            check=check,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ).stdout


def quick_start(there: Elsewhere) -> None:
    """Version, start, status, stop, export, and the export loaded."""
    version = there.run("decad", "--version").strip()
    expect(version.startswith("decad, version "), version)
    make_tiny_llama(there.folder / "model")
    (there.folder / "notes.txt").write_text("the quick brown fox jumps over the lazy dog. " * 400)
    state = ("--state-dir", "state")
    fast = ("--seq-len", "32", "--batch-size", "2", "--inner-steps", "4", "--no-mdns", "--threads", "1")
    daemon = there.start("decad", "start", "--model", "model", "--data", "notes.txt", *state, *fast)
    try:
        deadline, step = time.monotonic() + PATIENCE_S, 0
        while step < STEPS and daemon.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
            shown = there.answer("decad", "status", "--json", *state)
            step = int(json.loads(shown)["progress"]["step"]) if shown else 0
        expect(step >= STEPS, f"decad start trains: step {step}")
        expect("doing" in there.run("decad", "status", *state), "decad status tells of it")
        there.run("decad", "stop", *state)
        log = daemon.communicate(timeout=PATIENCE_S)[1]
        expect(daemon.returncode == 0, "decad stop ends it: " + log.splitlines()[-1][9:])
    finally:
        daemon.kill()
    there.run("decad", "export", "tuned", "--model", "model", *state)
    loaded = there.run(
        "python",
        "-c",
        "import transformers\n"
        "print(transformers.AutoModelForCausalLM.from_pretrained('tuned').num_parameters())",
    )
    expect(
        int(loaded) > 0, f"decad export writes a model that transformers loads: {loaded.strip()} parameters"
    )


def main() -> None:
    dist = Path(sys.argv[1]).resolve()
    (wheel,), (sdist,) = dist.glob("decad-*.whl"), dist.glob("decad-*.tar.gz")
    look_into(wheel, sdist)
    with tempfile.TemporaryDirectory(prefix="decad-dist-") as folder:
        there = Elsewhere(Path(folder))
        there.install(wheel)
        expect(True, f"{wheel.name} is installed in a new environment")
        quick_start(there)
    print("dist-test: all is well")


if __name__ == "__main__":
    main()
