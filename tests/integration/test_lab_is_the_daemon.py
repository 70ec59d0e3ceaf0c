"""What the laboratory computes is what daemons do: equal seeds, equal parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.daemon import Fleet

from decad.lab.engine import Laboratory
from decad.lab.experiment import make_experiment
from decad.membership.identity import load_or_create
from decad.state.checkpoint import open_checkpoint
from decad.state.weights import TrainedBlocks

pytestmark = pytest.mark.timeout(120)

STEPS = 30
"""Two rounds of three blocks for four steps each, and half of a phase."""

NO_DEADLINE = """
from decad.daemon import trainer
trainer.KNOWN_S = 60.0
from decad.core.deadline import Pace
Pace.deadline = lambda self, block, computed: 60.0
Pace.slow = lambda self, neighbour: False
"""


@pytest.mark.parametrize(
    ("moments", "encoding", "order", "overlay", "adapters", "end"),
    [
        ("rowwise", "bf16-delta", "shuffled", "edges:a-b,b-c", 0, 40),
        ("gossip", "fp32", "descending", "edges:a-b,b-c", 0, 26),
        ("rowwise", "bf16-delta", "descending", "full", 2, 18),
    ],
)
def test_equal_seeds_give_equal_parameters(
    peers: Fleet,
    tiny: Path,
    texts: Path,
    moments: str,
    encoding: str,
    order: str,
    overlay: str,
    adapters: int,
    end: int,
) -> None:
    settings = {
        **{"moments": moments, "encoding": encoding, "order": order, "overlay": overlay},
        **{"adapters": adapters, "adapter_lr": 1e-2 if adapters else 0.0},
        **{"seed": 3, "lr": 2e-3, "schedule": f"linear:{end}", "settle": 3, "clip": 1.0, "weight_decay": 0.1},
    }
    flags = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    flags += ["--steps", str(STEPS), "--min-peers", "2"]
    a = peers.start("a", *flags, before=NO_DEADLINE)
    b = peers.start("b", *flags, "--peers", a.address, before=NO_DEADLINE)
    c = peers.start("c", *flags, "--peers", b.address, before=NO_DEADLINE)
    assert [daemon.result().code for daemon in (a, b, c)] == [0, 0, 0]
    assert not any("went on without" in daemon.log for daemon in (a, b, c))
    last = STEPS if end >= STEPS else end + 3 * 3
    found = {daemon.state_dir.name: _parameters(daemon.state_dir, last) for daemon in (a, b, c)}

    experiment = make_experiment(
        {
            **settings,
            **{"model": tiny, "data": [texts / f"{name}.txt" for name in "abc"], "partition": "domain"},
            **{"peers": 3, "names": tuple("abc"), "ids": tuple(found[name][0] for name in "abc")},
            **{"steps": STEPS, "inner_steps": 4, "seq_len": 32, "batch_size": 2, "threads": 1},
        }
    )
    laboratory = Laboratory(experiment)
    for step in range(laboratory.steps):
        laboratory.step(step)
    assert laboratory.steps == last
    for peer in laboratory.peers:
        id_, blocks = found[peer.name]
        assert peer.id == id_
        assert len(blocks) == 3 + bool(adapters)
        for index, values in blocks.items():
            torch.testing.assert_close(peer.model.block(index), values, rtol=1e-5, atol=1e-6)


def _parameters(state_dir: Path, step: int) -> tuple[str, dict[int, torch.Tensor]]:
    """The peer's id and its trained blocks, fp32, after ``step`` steps."""
    with open_checkpoint(state_dir) as checkpoint:
        assert checkpoint is not None
        assert checkpoint.run.step == step
        blocks = TrainedBlocks(checkpoint)
        return load_or_create(state_dir).peer_id, {index: blocks[index] for index in blocks}
