from __future__ import annotations

from pathlib import Path

import pytest
import torch

from decad.errors import StateError
from decad.state.checkpoint import CheckpointStore, Snapshot, TrainedBlock
from decad.state.history import checkpoints, current, restore
from decad.state.lock import StateLock
from decad.state.manifest import RunRecord


def snapshot(step: int) -> Snapshot:
    run = RunRecord(fingerprint="f", spec="{}", set_fields=(), step=step, data={})
    return Snapshot(run, {step % 3: TrainedBlock(torch.full((5,), float(step)), step)})


def saved(directory: Path, *steps: int) -> CheckpointStore:
    store = CheckpointStore(directory)
    store.load()
    for step in steps:
        store.save(snapshot(step))
    return store


def steps(directory: Path) -> list[int]:
    return [s.manifest.run.step for s in checkpoints(directory) if s.manifest is not None]


def test_a_restored_checkpoint_is_current_and_what_it_replaces_stays_until_the_next_save(
    tmp_path: Path,
) -> None:
    saved(tmp_path, 10, 20)
    restore(tmp_path, 10)
    assert steps(tmp_path) == [10, 20]
    store = CheckpointStore(tmp_path)
    found = store.load()
    assert found is not None
    assert found.run.step == 10
    assert torch.equal(found.block(1), torch.full((5,), 10.0))
    assert 2 not in found.phases
    restore(tmp_path, 20)  # and back again
    assert steps(tmp_path) == [20, 10]
    restore(tmp_path, 10)
    store = saved(tmp_path, 11)
    assert steps(tmp_path) == [11, 10]


def test_restoring_the_current_checkpoint_changes_nothing(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    before = [s.path for s in checkpoints(tmp_path)]
    restore(tmp_path, 20)
    assert [s.path for s in checkpoints(tmp_path)] == before


def test_a_step_without_a_checkpoint_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    with pytest.raises(StateError, match=r"no checkpoint of step 15.*those of: 20, 10"):
        restore(tmp_path, 15)


def test_a_damaged_checkpoint_is_not_restored(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    (path,) = tmp_path.glob("blocks/1-*")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StateError, match="damaged"):
        restore(tmp_path, 10)
    assert steps(tmp_path) == [20, 10]


def test_nothing_is_restored_while_a_daemon_runs(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    with StateLock(tmp_path), pytest.raises(StateError, match=r"in use by the daemon.*decad stop"):
        restore(tmp_path, 10)
    assert steps(tmp_path) == [20, 10]


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no state directory"):
        restore(tmp_path / "nowhere", 10)
    assert current(tmp_path / "nowhere") is None
    assert not (tmp_path / "nowhere").exists()


def test_a_glance_sees_what_is_missing_or_cut_and_reading_sees_the_rest(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    (stored,) = checkpoints(tmp_path)
    (path,) = tmp_path.glob("blocks/1-*")
    data = path.read_bytes()
    sound: set[str] = set()
    assert stored.damage() is None
    assert stored.damage(sound) is None
    assert sound == {f"blocks/{path.name}"}
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert stored.damage() is None
    assert "do not match" in str(stored.damage(set()))
    path.write_bytes(data[:-1])
    assert f"has {len(data) - 1} bytes and should have {len(data)}" in str(stored.damage())
    path.unlink()
    assert "is missing" in str(stored.damage())
