from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from decad.errors import StateError
from decad.state.lock import StateLock, reading, sweeping


def test_the_directory_is_made_for_the_owner_alone(tmp_path: Path) -> None:
    with StateLock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_second_holder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with StateLock(tmp_path), pytest.raises(StateError, match=rf"process id {os.getpid()}\."):
        StateLock(tmp_path)


def test_released_means_free(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    lock.release()
    lock.release()
    with StateLock(tmp_path):
        assert int((tmp_path / "lock").read_text()) == os.getpid()


def test_a_killed_holder_leaves_nothing_behind(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from decad.state.lock import StateLock\n"
            "lock = StateLock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()",
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StateError, match=f"process id {holder.pid}"):
            StateLock(tmp_path)
        holder.kill()
        holder.wait()
        with StateLock(tmp_path):
            pass


def test_a_file_in_the_place_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StateError, match=r"cannot be used: Not a directory.*--state-dir"):
        StateLock(tmp_path / "state")


def test_sweeping_gives_way_to_readers(tmp_path: Path) -> None:
    with reading(tmp_path), reading(tmp_path), sweeping(tmp_path) as free:
        assert not free
    with sweeping(tmp_path) as free:
        assert free
