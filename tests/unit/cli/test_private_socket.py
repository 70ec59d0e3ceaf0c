"""The control socket of a state directory whose path is too long for one, where others can write: below /tmp."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from decad._proto import control_pb2 as pb
from decad.cli.client import get_status
from decad.daemon.control import control_service
from decad.errors import StateError
from decad.paths import control_socket


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a path that is too long, with what stands for /tmp."""
    shared = tmp_path / "tmp"
    shared.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(shared))
    long = tmp_path / ("long" * 30)
    long.mkdir()
    assert control_socket(long).parent.parent == shared
    return long


def prepare(folder: Path, how: str) -> None:
    if how == "a link":
        elsewhere = folder.with_name("elsewhere")
        elsewhere.mkdir()
        folder.symlink_to(elsewhere)
        return
    folder.mkdir()
    if how == "another user's":
        os.chown(folder, 12345, 12345)
    if how == "writable for all":
        folder.chmod(0o777)


FOREIGN = ["a link", "another user's", "writable for all"]


async def serve(state_dir: Path) -> str:
    async def save() -> int:
        return 0

    async with control_service(state_dir, pb.StatusReply, lambda: None, save, pb.SettleReply):
        return str(control_socket(state_dir))


@pytest.mark.parametrize("how", FOREIGN)
async def test_a_folder_that_somebody_else_may_have_made_is_refused_by_the_daemon(
    how: str, state_dir: Path
) -> None:
    if how == "another user's" and os.getuid():
        pytest.skip("needs root")
    prepare(control_socket(state_dir).parent, how)
    with pytest.raises(StateError, match="--state-dir"):
        await serve(state_dir)


@pytest.mark.parametrize("how", FOREIGN)
def test_and_by_the_command_line(how: str, state_dir: Path) -> None:
    if how == "another user's" and os.getuid():
        pytest.skip("needs root")
    prepare(control_socket(state_dir).parent, how)
    control_socket(state_dir).touch()
    with pytest.raises(StateError, match="need not be your daemon"):
        get_status(state_dir)


async def test_one_of_ones_own_is_used(state_dir: Path) -> None:
    path = await serve(state_dir)
    assert Path(path).parent.stat().st_mode & 0o777 == 0o700
