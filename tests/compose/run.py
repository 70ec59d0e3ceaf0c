"""Real containers by deploy/docker-compose.yml: they train, are killed, return, grow: `make compose-test`.

    python tests/compose/run.py [--base IMAGE]

The base image is made here with debootstrap (as root), unless one is named. Containers, networks and volumes are
removed in the end; the images stay, so that the next run builds fast. Exits with 1 if something is not as it should.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from support.tiny import make_tiny_llama  # noqa: E402  # after sys.path

BASE, IMAGE = "decad-compose-test-base", "decad-compose-test"
THREE = ("bible", "devil", "jargon")
KILLED = "jargon"
PATIENCE_S = 300.0
POLL_S = 1.0


def output(*command: str) -> str:
    """Standard output of a command that must succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def no_engine() -> str:
    """Why containers cannot be run here; empty if they can."""
    if shutil.which("docker") is None:
        return "the command docker is not installed"
    asked = subprocess.run(["docker", "version"], capture_output=True, text=True)
    if asked.returncode:
        return asked.stderr.strip().splitlines()[-1]
    return "" if compose_command() else "neither docker compose nor docker-compose is installed"


def compose_command() -> list[str]:
    """docker compose, the plugin or the program; empty if there is neither."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


def make_base(folder: Path) -> None:
    """A small Debian with Python as the image BASE, unless it is there already."""
    if output("docker", "images", "-q", BASE):
        return
    if shutil.which("debootstrap") is None:
        sys.exit("compose-test: debootstrap is not installed. Install it, or name an image with --base.")
    packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
    root = folder / "base"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    subprocess.run(f"tar -C {root} -c . | docker import - {BASE}", shell=True, check=True)


class Project:
    """A compose project of the test's own."""

    def __init__(self, name: str, files: Sequence[str], environment: dict[str, str]) -> None:
        self.name = name
        paths = [part for file in files for part in ("-f", str(ROOT / "deploy" / file))]
        self._compose = [*compose_command(), "-p", name, *paths]
        self._environment = os.environ | environment

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._compose, *arguments], env=self._environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    def containers(self, service: str) -> list[str]:
        """Ids."""
        return self.run("ps", "-q", service).split()

    def statuses(self, services: Sequence[str]) -> dict[str, Any]:
        """Container -> `decad status --json` in it; None while nobody answers."""
        found = {}
        for service in services:
            for container in self.containers(service):
                asked = subprocess.run(
                    ["docker", "exec", container, "decad", "status", "--json"],
                    capture_output=True,
                    text=True,
                )
                found[container] = json.loads(asked.stdout) if asked.returncode == 0 else None
        return found

    def until(
        self, what: str, services: Sequence[str], wanted: Callable[[list[Any]], bool]
    ) -> dict[str, Any]:
        """Wait until the statuses of all containers of ``services`` are as ``wanted``, and say so."""
        begun, statuses = time.monotonic(), {}
        while time.monotonic() - begun < PATIENCE_S:
            statuses = self.statuses(services)
            if all(statuses.values()) and wanted(list(statuses.values())):
                print(f"ok    {what} ({time.monotonic() - begun:.0f} s)", flush=True)
                return statuses
            time.sleep(POLL_S)
        print(json.dumps(statuses, indent=1))
        for service in services:
            print(self.run("logs", "--tail=30", service))
        sys.exit(f"compose-test: FAILED: not within {PATIENCE_S:.0f} s: {what}")

    def down(self) -> None:
        """Take all down, and make sure that nothing is left."""
        self.run("--profile", "more", "down", "-v", "--remove-orphans")
        label = f"label=com.docker.compose.project={self.name}"
        left = [
            *output("docker", "ps", "-aq", "--filter", label).split(),
            *output("docker", "network", "ls", "-q", "--filter", label).split(),
            *output("docker", "volume", "ls", "-q", "--filter", label).split(),
        ]
        expect(not left, "containers, networks and volumes are gone")


def expect(true: bool, what: str) -> None:
    """Say that something is so, or end the test."""
    if not true:
        sys.exit(f"compose-test: FAILED: {what}")
    print(f"ok    {what}", flush=True)


def step_of(status: Any) -> int:
    return int(status["progress"]["step"])


def mixing(others: int, past: int, found: str = "") -> Callable[[list[Any]], bool]:
    """Whether each has stepped past ``past`` and has mixed with all of so many others (found as ``found``).

    On a busy machine somebody is late in most steps: what counts is that each one's block was there in some.
    """

    def wanted(statuses: list[Any]) -> bool:
        for status in statuses:
            alive = [n for n in status["neighbours"] if n["state"] == "alive"]
            mixed = all(int(n["due"]) > int(n["late"]) for n in alive)
            right = all(n["found"] in (found, "inbound") for n in alive) if found else True
            if len(alive) != others or not mixed or not right or step_of(status) <= past:
                return False
        return True

    return wanted


def health(container: str) -> str:
    return output("docker", "inspect", "--format", "{{.State.Health.Status}}", container).strip()


def healthy(project: Project, services: Sequence[str]) -> bool:
    """Whether Docker says so of every container."""
    return all(health(container) == "healthy" for name in services for container in project.containers(name))


def show(statuses: dict[str, Any]) -> None:
    for status in statuses.values():
        others = ", ".join(
            f"{n['name'] or n['peer_id'][:8]} {n['state']} {n['mixing_weight']:.2f} by {n['found']}"
            for n in status["neighbours"]
        )
        loss, peer = status["training"]["loss"], status["name"] or status["peer_id"][:8]
        print(f"        {peer}: step {step_of(status)}, loss {loss:.3f}; {others}", flush=True)


def kill_and_return(project: Project) -> None:
    """One of the three dies without a word, and comes back with what it had."""
    (container,) = project.containers(KILLED)
    before = project.statuses([KILLED])[container]
    project.run("kill", "-s", "KILL", KILLED)
    others = [name for name in THREE if name != KILLED]
    project.until(f"{KILLED} is killed: the others train on without it", others, mixing(1, step_of(before)))
    project.run("start", KILLED)
    came = project.until(f"{KILLED} is back and mixes", THREE, mixing(2, step_of(before)))
    show(came)
    expect(came[container]["peer_id"] == before["peer_id"], "it is the same peer")
    log = output("sh", "-c", f"docker logs {container} 2>&1")
    said = [line for line in log.splitlines() if "continuing at step" in line]
    expect(
        len(said) == 1 and not said[0].endswith("step 0"), "it went on from its state: " + "".join(said)[9:]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", help="an image with Python and pip; made with debootstrap otherwise")
    base = parser.parse_args().base
    if why := no_engine():
        print(f"compose-test skipped: no Docker engine runs here: {why}")
        return
    with tempfile.TemporaryDirectory(prefix="decad-compose-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # the containers' user reads the model in it
        model = make_tiny_llama(folder / "model")
        for file in model.iterdir():
            file.chmod(0o644)
        if base is None:
            make_base(folder)
        subprocess.run(["make", "-s", "-C", str(ROOT), "wheelhouse"], check=True)
        settings = {"MODEL": str(model), "BASE": base or BASE, "IMAGE": IMAGE, "HEALTH_INTERVAL": "2s"}
        tiny = {"SEQ_LEN": "32", "SCHEDULE": "constant", "CPUS": "0.6", "MEMORY": "1g"}
        name = f"decad-test-{os.getpid()}"
        project = Project(name, ["docker-compose.yml"], settings | tiny)
        print("building the image ...", flush=True)
        (folder / "build.log").write_text(project.run("build", "bible"))
        print("ok    the image is built:", output("docker", "images", "--format", "{{.Size}}", IMAGE).strip())
        by_address = Project(name, ["docker-compose.yml", "docker-compose.peers.yml"], settings | tiny)
        try:
            project.run("up", "-d", "--no-build")
            show(
                project.until(
                    "three peers found each other by mDNS, train and mix", THREE, mixing(2, 60, "mdns")
                )
            )
            user = {
                output("docker", "exec", c, "id", "-un").strip() for n in THREE for c in project.containers(n)
            }
            expect(user == {"decad"}, "none of them is root")
            project.until("all three are healthy", THREE, lambda _: healthy(project, THREE))
            kill_and_return(project)
            project.run("--profile", "more", "up", "-d", "--no-build", "--scale", "more=2", "more")
            show(project.until("two more by --scale: all five mix", [*THREE, "more"], mixing(4, 60)))
            project.down()
            by_address.run("up", "-d", "--no-build")
            show(by_address.until("three peers without multicast, by --peers", THREE, mixing(2, 60)))
            off = {status["mdns"] for status in by_address.statuses(THREE).values()}
            expect(off == {"off"}, "mDNS is off")
        finally:
            project.down()
    print("compose-test: all is well")


if __name__ == "__main__":
    main()
