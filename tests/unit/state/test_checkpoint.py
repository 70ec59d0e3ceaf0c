from __future__ import annotations

import errno
import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.disk import Disk, Loss, PowerCut

from decad.errors import InternalError, StateError
from decad.state.checkpoint import (
    RETAINED,
    ActiveState,
    Checkpoint,
    CheckpointStore,
    Snapshot,
    TrainedBlock,
    open_checkpoint,
)
from decad.state.history import checkpoints
from decad.state.manifest import RunRecord


def record(step: int) -> RunRecord:
    return RunRecord(
        fingerprint="f" * 64,
        spec='{"run":"test"}',
        set_fields=("lr", "run"),
        step=step,
        data={"epoch": 1, "position": step, "seed": 2**100},
    )


def filled(value: float, elements: int = 5) -> torch.Tensor:
    return torch.full((elements,), value)


OLD = Snapshot(
    record(20),
    {0: TrainedBlock(filled(0.25), 3), 2: TrainedBlock(filled(2.5).bfloat16(), 1)},
    ActiveState(
        1, 3, 4, {"master": filled(1.0), "m": filled(0.1), "rng": torch.arange(7, dtype=torch.uint8)}
    ),
)
OLDEST = Snapshot(
    record(10), {0: TrainedBlock(filled(0.125), 2)}, ActiveState(0, 1, 1, {"master": filled(3.0)})
)
NEW = Snapshot(
    record(40),
    {0: TrainedBlock(filled(-0.25), 6), 1: TrainedBlock(filled(9.0, 3), 5)},
    ActiveState(0, 0, -1, {"master": filled(7.0), "m": filled(0.7), "v": filled(0.3)}),
)

Contents = tuple[RunRecord, dict[int, tuple[int, str, list[float]]], object]


def contents(checkpoint: Checkpoint | None) -> Contents | None:
    if checkpoint is None:
        return None
    blocks = {
        index: (phase, str(checkpoint.block(index).dtype), checkpoint.block(index).tolist())
        for index, phase in checkpoint.phases.items()
    }
    return checkpoint.run, blocks, plain(checkpoint.active())


def plain(active: ActiveState | None) -> object:
    if active is None:
        return None
    tensors = {name: tensor.tolist() for name, tensor in active.tensors.items()}
    return active.block, active.updates, active.sequence, tensors


def load(directory: Path) -> Checkpoint | None:
    return CheckpointStore(directory).load()


def saved(directory: Path, *snapshots: Snapshot) -> CheckpointStore:
    store = CheckpointStore(directory)
    store.load()
    for snapshot in snapshots:
        store.save(snapshot)
    return store


def listing(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def belonging(directory: Path) -> set[str]:
    """The manifests that are there, and what they need."""
    stored = checkpoints(directory)
    needed = {name for s in stored if s.manifest is not None for name in s.manifest.needed}
    return {s.path.name for s in stored} | needed


def steps(directory: Path) -> list[int]:
    return [s.manifest.run.step for s in checkpoints(directory) if s.manifest is not None]


@pytest.fixture
def states(tmp_path: Path) -> dict[str, Contents | None]:
    """What `load` gives after OLD alone, and after NEW on top of it."""
    saved(tmp_path / "old", OLD)
    saved(tmp_path / "new", OLD, NEW)
    return {name: contents(load(tmp_path / name)) for name in ("old", "new")}


def test_an_empty_directory_holds_no_checkpoint(tmp_path: Path) -> None:
    assert load(tmp_path / "nowhere") is None


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    saved(tmp_path, OLD)
    assert contents(load(tmp_path)) == (
        OLD.run,
        {0: (3, "torch.float32", [0.25] * 5), 2: (1, "torch.bfloat16", [2.5] * 5)},
        plain(OLD.active),
    )


def test_blocks_that_did_not_change_are_neither_given_nor_written_again(tmp_path: Path) -> None:
    store = saved(tmp_path, OLD)
    (kept,) = (tmp_path / "blocks").glob("2-*")
    before = kept.stat().st_ino, kept.stat().st_mtime_ns
    store.save(NEW)
    loaded = load(tmp_path)
    assert loaded is not None
    assert loaded.phases == {0: 6, 1: 5, 2: 1}
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == before


def test_between_phases_there_is_no_active_block(tmp_path: Path) -> None:
    saved(tmp_path, OLD, Snapshot(record(40), NEW.blocks))
    loaded = load(tmp_path)
    assert loaded is not None
    assert loaded.active() is None


def test_files_that_no_manifest_needs_are_removed_and_others_left_alone(tmp_path: Path) -> None:
    store = saved(tmp_path, OLD)
    (tmp_path / "identity.pem").write_text("not ours")
    store.save(NEW)
    store.save(Snapshot(record(60)))
    assert steps(tmp_path) == [60, 40]
    assert listing(tmp_path) == {"identity.pem", *belonging(tmp_path)}
    assert not list(tmp_path.glob("active-20-*"))


def test_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    saved(tmp_path / "state", OLD)
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "state").rglob("*")}
    assert modes == {0}
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def test_tensor_files_are_safetensors(tmp_path: Path) -> None:
    saved(tmp_path, OLD)
    (active,) = tmp_path.glob("active-20-*.safetensors")
    read = load_file(active)
    assert plain(ActiveState(1, 3, 4, read)) == plain(OLD.active)


@pytest.mark.parametrize("harm", ["removed", "cut", "not one"])
def test_a_file_that_goes_bad_after_its_hash_was_checked_is_named(tmp_path: Path, harm: str) -> None:
    store = CheckpointStore(tmp_path)
    store.load()
    store.save(OLD)
    checkpoint = CheckpointStore(tmp_path).load()
    assert checkpoint is not None
    (path,) = (tmp_path / "blocks").glob("0-*.safetensors")
    whole = path.read_bytes()
    path.unlink()
    if harm != "removed":
        path.write_bytes(whole[:-3] if harm == "cut" else b"?" * len(whole))
    with pytest.raises(StateError, match=f"{path.name} cannot be read: .*Check the disk"):
        checkpoint.block(0)


def test_saving_before_loading_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="before load"):
        CheckpointStore(tmp_path).save(OLD)


def operations_of_a_save(directory: Path) -> list[str]:
    store = saved(directory, OLDEST, OLD)
    disk = Disk(directory)
    with pytest.MonkeyPatch.context() as patch:
        disk.install(patch)
        store.save(NEW)
    return disk.done


def test_nothing_is_removed_before_the_new_manifest_is_durable(tmp_path: Path) -> None:
    done = operations_of_a_save(tmp_path)
    committed = len(done) - done[::-1].index("replace incoming.tmp") - 1
    removals = [i for i, operation in enumerate(done) if operation.startswith("unlink")]
    assert (
        len(removals) == 3
    )  # the oldest checkpoint's manifest, active block, and the block that changed since
    assert done[removals[0]] == "unlink manifest-00000001.json"
    assert done.index("fsync .", committed) < min(removals)


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("before", ["nothing", "old"])
def test_a_power_cut_at_any_operation_leaves_the_old_or_the_new_checkpoint(
    tmp_path: Path, states: dict[str, Contents | None], loss: Loss, before: str
) -> None:
    total = len(operations_of_a_save(tmp_path / "counted"))
    first = states["old"] if before == "old" else None
    last = states["new"] if before == "old" else contents(load_new_alone(tmp_path / "alone"))
    seen = set()
    for cut in range(total + 1):
        directory = tmp_path / f"cut-{cut}"
        directory.mkdir()
        store = saved(directory, *([OLDEST, OLD] if before == "old" else []))
        disk = Disk(directory, cut)
        with pytest.MonkeyPatch.context() as patch:
            disk.install(patch)
            with suppress(PowerCut):
                store.save(NEW)
        disk.lose(loss)
        found = load(directory)
        assert contents(found) in (first, last), f"cut at {cut}, after {disk.done}"
        seen.add(found is None or found.run.step == 20)
        assert found is None or found.lost == ""
        assert len(steps(directory)) <= RETAINED
        assert listing(directory) == belonging(directory)
        shutil.rmtree(directory)
    assert seen == {True, False}


def load_new_alone(directory: Path) -> Checkpoint | None:
    saved(directory, NEW)
    return load(directory)


def test_a_save_that_returned_survives_every_loss(
    tmp_path: Path, states: dict[str, Contents | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for loss in Loss:
        directory = tmp_path / loss.name
        store = saved(directory, OLD)
        disk = Disk(directory)
        with monkeypatch.context() as patch:
            disk.install(patch)
            store.save(NEW)
        disk.lose(loss)
        assert contents(load(directory)) == states["new"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_an_error_at_any_operation_is_told_and_the_next_save_succeeds(
    tmp_path: Path, states: dict[str, Contents | None], code: int
) -> None:
    total = len(operations_of_a_save(tmp_path / "counted"))
    for operation in range(total):
        directory = tmp_path / f"error-{operation}"
        store = saved(directory, OLD)
        disk = Disk(directory, operation, OSError(code, "no luck"))
        told = None
        with pytest.MonkeyPatch.context() as patch:
            disk.install(patch)
            try:
                store.save(NEW)
            except StateError as error:
                told = str(error)
        found = contents(load(directory))
        if told is None:
            assert found == states["new"], f"the failing operation was {operation}, after {disk.done}"
        else:
            assert found in (states["old"], states["new"])
            assert str(directory) in told
            assert ("Free some space" in told) == (code == errno.ENOSPC)
        store.save(NEW)
        assert contents(load(directory)) == states["new"]


def test_a_failed_save_gives_its_space_back(tmp_path: Path) -> None:
    store = saved(tmp_path, OLD)
    before = listing(tmp_path)
    disk = Disk(tmp_path, 8, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.MonkeyPatch.context() as patch:
        disk.install(patch)
        with pytest.raises(StateError, match=r"No space left on device.*previous checkpoint is untouched"):
            store.save(NEW)
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("pattern", "harm"),
    [
        (pattern, harm)
        for pattern in ("blocks/0-*", "blocks/2-*", "active-*", "manifest-*.json")
        for harm in ("flip", "cut", "remove")
        if (pattern, harm) != ("manifest-*.json", "remove")  # without a manifest there is no checkpoint
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_removed(tmp_path: Path, pattern: str, harm: str) -> None:
    saved(tmp_path, OLD)
    (path,) = tmp_path.glob(pattern)
    damage(path, harm)
    before = listing(tmp_path)
    with pytest.raises(StateError, match=r"damaged.*Restore") as caught:
        load(tmp_path)
    assert str(path) in str(caught.value)
    assert listing(tmp_path) == before


def damage(path: Path, harm: str) -> None:
    data = bytearray(path.read_bytes())
    if harm == "flip":
        at = data.index(b'"step": ') + 8 if path.suffix == ".json" else len(data) - 3
        data[at] ^= 1
        path.write_bytes(data)
    elif harm == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
@pytest.mark.parametrize("pattern", ["blocks/1-*", "active-40-*", "manifest-00000002.json"])
def test_where_the_newest_is_damaged_the_one_before_is_used_and_the_loss_told(
    tmp_path: Path, states: dict[str, Contents | None], pattern: str, harm: str
) -> None:
    directory = tmp_path / "live"
    saved(directory, OLD, NEW)
    (path,) = directory.glob(pattern)
    damage(path, harm)
    before = listing(directory)
    store = CheckpointStore(directory)
    found = store.load()
    assert contents(found) == states["old"]
    assert found is not None
    if (pattern, harm) != ("manifest-00000002.json", "remove"):  # of which nothing is left to tell
        assert str(path) in found.lost
        assert "is used, of step 20" in found.lost
        assert ("20 steps are lost" in found.lost) == (path.suffix != ".json")
        assert listing(directory) == before
    store.save(NEW)
    assert contents(load(directory)) == states["new"]
    assert steps(directory) == [40, 20]
    assert listing(directory) == belonging(directory)


def test_a_save_that_fails_leaves_damaged_files_where_they_are(tmp_path: Path) -> None:
    saved(tmp_path, OLD, NEW)
    (path,) = tmp_path.glob("blocks/1-*")
    damage(path, "flip")
    before = listing(tmp_path)
    store = CheckpointStore(tmp_path)
    store.load()
    disk = Disk(tmp_path, 8, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.MonkeyPatch.context() as patch:
        disk.install(patch)
        with pytest.raises(StateError, match="No space left"):
            store.save(Snapshot(record(60), {2: TrainedBlock(filled(5.0), 7)}))
    assert before <= listing(tmp_path)


@pytest.mark.parametrize("name", ["manifest-00000001.json", "manifest.json"])
def test_another_format_is_refused(tmp_path: Path, name: str) -> None:
    saved(tmp_path, OLD)
    (path,) = tmp_path.glob("manifest-*.json")
    version = 3 if path.name == name else 1
    text = json.dumps(json.loads(path.read_text()) | {"format": version})
    path.unlink()
    (tmp_path / name).write_text(text)
    before = listing(tmp_path)
    with pytest.raises(StateError, match=rf"{name} has format {version}; this decad reads format 2"):
        load(tmp_path)
    assert listing(tmp_path) == before


def test_a_reader_keeps_its_files_while_the_daemon_saves(
    tmp_path: Path, states: dict[str, Contents | None]
) -> None:
    directory = tmp_path / "live"
    store = saved(directory, OLD)
    with open_checkpoint(directory) as checkpoint:
        store.save(NEW)
        assert contents(checkpoint) == states["old"]
        store.save(Snapshot(record(60)))
        assert contents(checkpoint) == states["old"]
    store.save(Snapshot(record(80)))
    assert steps(directory) == [80, 60]
    assert listing(directory) == belonging(directory)


def test_a_reader_of_a_directory_that_is_not_there_finds_no_checkpoint(tmp_path: Path) -> None:
    with open_checkpoint(tmp_path / "nowhere") as checkpoint:
        assert checkpoint is None
    assert not (tmp_path / "nowhere").exists()
