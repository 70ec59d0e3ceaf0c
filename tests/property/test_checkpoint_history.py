"""Any history of saves: what `load` gives is what a dictionary in memory would have kept, bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decad.state.checkpoint import ActiveState, CheckpointStore, Snapshot, TrainedBlock
from decad.state.manifest import RunRecord

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    # Any bit pattern, so that NaNs, infinities and negative zeros have to come back as they were.
    data = draw(st.binary(min_size=0, max_size=10)) * dtype.itemsize
    return torch.tensor(list(data), dtype=torch.uint8).view(dtype)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    run = RunRecord(
        fingerprint=draw(st.text(max_size=8)),
        spec=draw(st.text(max_size=8)),
        set_fields=tuple(draw(st.lists(st.text(max_size=4), max_size=3))),
        step=draw(st.integers(0, 3)),
        data=draw(st.dictionaries(st.text(), json_values, max_size=3)),
    )
    blocks = draw(
        st.dictionaries(st.integers(0, 3), st.builds(TrainedBlock, tensors(), st.integers(0, 99)), max_size=3)
    )
    named = st.dictionaries(st.text(max_size=4), tensors(), max_size=3)
    active = st.builds(ActiveState, st.integers(0, 3), st.integers(0, 99), st.integers(-1, 99), named)
    return Snapshot(run, blocks, draw(st.none() | active))


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], list[int]]:
    return tensor.dtype, tuple(tensor.shape), tensor.view(torch.uint8).tolist()


def plain(active: ActiveState | None) -> object:
    if active is None:
        return None
    tensors = {name: bits(tensor) for name, tensor in active.tensors.items()}
    return active.block, active.updates, active.sequence, tensors


@settings(deadline=None, max_examples=30)
@given(st.lists(snapshots(), min_size=1, max_size=4), st.booleans())
def test_load_gives_what_was_saved(history: list[Snapshot], restart: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = CheckpointStore(Path(directory))
        store.load()
        expected: dict[int, TrainedBlock] = {}
        for snapshot in history:
            if restart:
                store = CheckpointStore(Path(directory))
                store.load()
            store.save(snapshot)
            expected |= snapshot.blocks
        found = CheckpointStore(Path(directory)).load()
        assert found is not None
        assert found.run == history[-1].run
        assert found.phases == {index: block.phase for index, block in expected.items()}
        for index, block in expected.items():
            assert bits(found.block(index)) == bits(block.values)
        assert plain(found.active()) == plain(history[-1].active)
