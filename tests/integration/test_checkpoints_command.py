"""`decad checkpoints` on what a real daemon saved."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Fleet, fleet
from support.nursery import Nursery, environment

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def trained(
    nursery: Nursery, tmp_path_factory: pytest.TempPathFactory, tiny: Path, texts: Path
) -> Iterator[Fleet]:
    """Peer a, alone, with checkpoints of steps 8 and 10 (a phase has four steps)."""
    with fleet(nursery, tmp_path_factory.mktemp("trained"), tiny, texts) as peers:
        assert peers.start("a", "--steps", "8").result().code == 0
        assert peers.start("a", "--steps", "10").result().code == 0
        yield peers


@pytest.fixture
def state(trained: Fleet, tmp_path: Path) -> Path:
    return shutil.copytree(trained["a"].state_dir, tmp_path / "state")


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_the_list_tells_steps_times_blocks_and_sizes(trained: Fleet, state: Path) -> None:
    shown = trained.run("checkpoints", "list", "--state-dir", str(state))
    assert (shown.code, shown.err) == (0, "")
    header, newest, older = shown.out.splitlines()
    assert header.split() == ["step", "saved", "blocks", "size", "state"]
    row = r" +{} +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d +2 +[\d.]+ KiB  all files there{}"
    assert re.fullmatch(row.format(10, ", current"), newest)
    assert re.fullmatch(row.format(8, ""), older)


def test_machines_get_the_same_as_json(trained: Fleet, state: Path) -> None:
    shown = trained.run("checkpoints", "list", "--json", "--state-dir", str(state))
    newest, older = json.loads(shown.out)
    assert (newest["step"], newest["current"], newest["damage"]) == (10, True, None)
    assert (older["step"], older["current"], older["active_block"]) == (8, False, None)
    assert newest["active_block"] not in newest["blocks"]
    assert newest["size_bytes"] > older["size_bytes"] > 0


def test_verify_finds_a_flipped_bit_and_says_what_is_used_instead(trained: Fleet, state: Path) -> None:
    whole = trained.run("checkpoints", "verify", "--state-dir", str(state))
    assert (whole.code, whole.out.count("whole")) == (0, 2)
    (active,) = state.glob("active-10-*")
    flip(active)
    found = trained.run("checkpoints", "verify", "--state-dir", str(state))
    assert found.code == 6
    assert f"damaged: {active}: its contents do not match the manifest's hash" in found.out
    assert found.err.endswith(
        f"1 of 2 checkpoints in {state} are damaged. `decad start` continues from the one of step 8, which is whole.\n"
    )
    as_json = trained.run("checkpoints", "verify", "--json", "--state-dir", str(state))
    assert as_json.code == 6
    assert [entry["current"] for entry in json.loads(as_json.out)] == [False, True]


def test_the_daemon_goes_on_from_the_one_before_and_says_what_is_lost(trained: Fleet, state: Path) -> None:
    (active,) = state.glob("active-10-*")
    flip(active)
    daemon = trained.start("b", "--name", "a", "--state-dir", str(state), "--steps", "9")
    assert daemon.result().code == 0
    assert re.search(r"continuing at step 8\n", daemon.log)
    assert f"The checkpoint of step 10 is damaged: {active}: " in daemon.log
    assert "2 steps are lost" in daemon.log


def test_a_restored_checkpoint_is_the_one_that_start_continues_from(trained: Fleet, state: Path) -> None:
    done = trained.run("checkpoints", "restore", "8", "--state-dir", str(state))
    assert (done.code, done.err) == (0, "")
    assert (
        done.out
        == "The next `decad start` continues from step 8. The others are kept until its first save.\n"
    )
    daemon = trained.start("c", "--name", "a", "--state-dir", str(state), "--steps", "8")
    assert daemon.result().code == 0
    daemon.until_log("continuing at step 8\n")


def test_nothing_is_restored_under_a_running_daemon(trained: Fleet, state: Path) -> None:
    daemon = trained.start("d", "--name", "a", "--state-dir", str(state))
    daemon.until_log("continuing at step 10\n")
    refused = trained.run("checkpoints", "restore", "8", "--state-dir", str(state))
    assert refused.code == 6
    assert f"in use by the daemon with process id {daemon.pid}. Stop it with `decad stop" in refused.err
    daemon.end()


def test_without_a_directory_or_a_checkpoint_they_say_so(trained: Fleet, tmp_path: Path) -> None:
    nowhere = trained.run("checkpoints", "list", "--state-dir", str(tmp_path / "nowhere"))
    assert nowhere.code == 6
    assert f"There is no state directory {tmp_path / 'nowhere'}." in nowhere.err
    (tmp_path / "empty").mkdir()
    empty = trained.run("checkpoints", "verify", "--state-dir", str(tmp_path / "empty"))
    assert (empty.code, empty.out) == (0, f"There is no checkpoint in {tmp_path / 'empty'} yet.\n")


def test_listing_never_loads_torch(state: Path) -> None:
    program = (
        "import sys; from decad.cli.main import cli\n"
        f"cli(['checkpoints', 'verify', '--state-dir', {str(state)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
