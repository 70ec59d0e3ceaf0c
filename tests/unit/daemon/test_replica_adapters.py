"""Adapters as joiners and returners see them: the block after the last, which every phase changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from support.tiny import make_tiny_llama

from decad.config import RunSpec
from decad.core.schedule import Schedule
from decad.daemon.compute import ComputeThread
from decad.daemon.fetch import Donation
from decad.daemon.phase import TrainingRule
from decad.daemon.replica import Replica, Resumed
from decad.daemon.saver import Saver
from decad.errors import PeerError
from decad.model.trainable import TrainableModel
from decad.state.checkpoint import AdapterState, CheckpointStore

INNER = 4
SPEC = RunSpec(adapters=2, inner_steps=INNER)


class Peer:
    def __init__(self, folder: Path, resumed: Resumed | None = None) -> None:
        model = folder / "model"
        if not model.exists():
            make_tiny_llama(model, hidden=16)
        self.model = TrainableModel.load(model, torch.device("cpu"), torch.float32, SPEC)
        assert self.model.adapters is not None
        self.index = self.model.adapters.index
        self.schedule = Schedule(len(self.model.plan), INNER)
        self.compute, self.saver = (
            ComputeThread(1),
            Saver(CheckpointStore(folder / "state"), lambda text: None),
        )
        self.replica = Replica(
            self.schedule, TrainingRule(SPEC), self.model, self.compute, self.saver, resumed
        )


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    peer = Peer(tmp_path)
    yield peer
    await peer.saver.close()
    peer.compute.close()


def donation(peer: Peer, step: int) -> Donation:
    return Donation(torch.ones_like(peer.model.adapter_values), step, True)


async def test_before_the_first_step_nobody_misses_them(peer: Peer) -> None:
    assert peer.index not in peer.replica.missed(0)
    assert peer.index in peer.replica.missed(1)


async def test_a_joiner_takes_them_once_and_older_ones_never(peer: Peer) -> None:
    assert await peer.replica.take(peer.index, donation(peer, 3 * INNER))
    assert peer.model.adapter_values.eq(1).all()
    assert peer.index not in peer.replica.missed(3 * INNER)
    assert peer.index in peer.replica.missed(3 * INNER + 1)
    assert not await peer.replica.take(peer.index, donation(peer, 2 * INNER))


async def test_who_trains_misses_none_and_takes_none(peer: Peer) -> None:
    await peer.replica.enter(peer.schedule.position(5))
    assert peer.index not in peer.replica.missed(6)
    before = peer.model.adapter_values.clone()
    assert not await peer.replica.take(peer.index, donation(peer, 6))
    assert torch.equal(peer.model.adapter_values, before)
    await peer.replica.leave()
    assert peer.index not in peer.replica.missed(2 * INNER)
    assert peer.index in peer.replica.missed(2 * INNER + 1)


async def test_what_is_given_is_of_a_completed_step(peer: Peer) -> None:
    await peer.replica.enter(peer.schedule.position(5))
    async with peer.replica.whole_steps:
        given = peer.replica.donate(peer.index, lambda: 6)
        task = asyncio.ensure_future(given)
        await asyncio.sleep(0)
        peer.model.adapter_values.fill_(7.0)
    found = await task
    assert found.values.eq(7).all()
    assert (found.step, found.values.shape) == (6, peer.model.adapter_values.shape)
    with pytest.raises(PeerError):
        await peer.replica.donate(peer.index + 1, lambda: 6)
    await peer.replica.leave()


async def test_moments_and_phase_come_back_from_a_checkpoint(peer: Peer, tmp_path: Path) -> None:
    numel = peer.model.adapter_values.numel()
    tensors = {"block": torch.ones(numel), "m": torch.full((numel,), 2.0), "v": torch.full((numel,), 3.0)}
    state = AdapterState(peer.index, 4, 17, tensors)
    again = Peer(tmp_path, Resumed({}, None, 5 * INNER, state))
    again.model.set_block(again.index, tensors["block"])
    found = await again.replica.adapters()
    assert found is not None
    assert (found.block, found.phase, found.updates) == (peer.index, 4, 17)
    assert all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)
    assert peer.index not in again.replica.missed(5 * INNER)
    await again.saver.close()
    again.compute.close()


async def test_without_adapters_there_are_none(tmp_path: Path) -> None:
    plain = TrainableModel.load(
        make_tiny_llama(tmp_path / "m", hidden=16), torch.device("cpu"), torch.float32
    )
    compute, saver = ComputeThread(1), Saver(CheckpointStore(tmp_path / "s"), lambda text: None)
    schedule = Schedule(len(plain.plan), INNER)
    replica = Replica(schedule, TrainingRule(RunSpec()), plain, compute, saver)
    assert await replica.adapters() is None
    assert replica.missed(4) == [len(plain.plan) - 1]
    await saver.close()
    compute.close()
