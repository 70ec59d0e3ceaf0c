"""What checkpoints cost the training: phases during which one is written beside phases during which none is.

    python tests/bench/bench_checkpoint.py --model DIR [--quick]

Both train the same block of the model on the same tokens, taking turns in one process, through the daemon's own
parts: replica, saver, store. The checkpoint under way holds that block as the last phase left it. Times are medians;
the goal is a ratio of at most 1.05.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from decad.config import RunSpec
from decad.core.batch import Batch
from decad.core.schedule import Position, Schedule
from decad.daemon.compute import ComputeThread
from decad.daemon.phase import TrainingRule
from decad.daemon.replica import Replica
from decad.daemon.saver import Saver
from decad.model.trainable import TrainableModel
from decad.state.checkpoint import CheckpointStore
from decad.state.manifest import RunRecord

MIB = 2**20


class Phases:
    """Phases of chosen blocks of one model, alone."""

    def __init__(
        self, model: TrainableModel, compute: ComputeThread, directory: Path, inner_steps: int
    ) -> None:
        spec = RunSpec(inner_steps=inner_steps, lr=1e-5)
        self.schedule = Schedule(len(model.plan), inner_steps, spec.order, spec.seed)
        self._model, self._compute, self._inner_steps = model, compute, inner_steps
        tokens = torch.randint(0, model.vocab_size, (4, 128), generator=torch.Generator().manual_seed(0))
        self.batch = Batch.next_token(tokens)
        store = CheckpointStore(directory)
        store.load()
        self.saver = Saver(store, lambda text: sys.exit(text))
        rule = TrainingRule(spec)
        self._replica = Replica(self.schedule, rule, model, compute, self.saver)

    def of(self, block: int) -> Position:
        """Where that block is trained first."""
        steps = range(0, self.schedule.steps_per_round, self._inner_steps)
        return next(p for p in map(self.schedule.position, steps) if p.block == block)

    async def timed(self, position: Position, saving: bool) -> float:
        """Seconds of a phase that begins as a checkpoint does, or while none is written."""
        begun = time.perf_counter()
        if saving:
            run = RunRecord(fingerprint="", spec="", set_fields=(), step=0, data={})
            self.saver.begin(run, await self._replica.held())
        active = await self._replica.enter(position)
        assert active is not None
        for step in range(self._inner_steps):
            _, gradient = await self._compute.run(self._model.gradient, self.batch)
            accumulators = await self._compute.run(active.half_step, gradient, step)
            mixer = active.coding.mixer(accumulators, step, 0)
            await self._compute.run(active.finish_step, mixer, step)
        await self._replica.leave()
        seconds = time.perf_counter() - begun
        await self.saver.wait()
        return seconds


async def measure(args: argparse.Namespace, directory: Path) -> None:
    model = TrainableModel.load(args.model, torch.device("cpu"), torch.float32)
    compute = ComputeThread(args.threads)
    pairs = 3 if args.quick else 5
    phases = Phases(model, compute, directory, 5 if args.quick else 20)
    size = sorted(model.plan.blocks, key=lambda block: block.numel)
    chosen = [size[len(size) // 2], size[-1]]
    print(f"{model.plan.numel / 1e6:.1f} M parameters, fp32, 4 x 128 tokens, ", end="")
    print(f"{phases.schedule.inner_steps} steps a phase, medians of {pairs}\n")
    print(f"{'':24}{'MiB':>8}{'without s':>11}{'with s':>9}{'ratio':>8}{'write s':>9}")
    for block in chosen:
        position = phases.of(block.index)
        await phases.timed(position, saving=False)  # warms up
        without, with_ = [], []
        for _ in range(pairs):
            without.append(await phases.timed(position, saving=False))
            with_.append(await phases.timed(position, saving=True))
        ratio = median(with_) / median(without)
        print(
            f"{block.name:24}{4 * block.numel / MIB:8.1f}{median(without):11.2f}{median(with_):9.2f}{ratio:8.3f}"
            f"{await written(phases):9.2f}",
            flush=True,
        )
    await phases.saver.close()
    compute.close()


async def written(phases: Phases) -> float:
    """Seconds of one more such checkpoint, of what the last phase left, when nothing else runs."""
    begun = time.perf_counter()
    run = RunRecord(fingerprint="", spec="", set_fields=(), step=0, data={})
    phases.saver.begin(run, None)
    await phases.saver.wait()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
    parser.add_argument("--quick", action="store_true", help="five steps a phase, three pairs of phases")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its choice")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        asyncio.run(measure(args, Path(directory)))


if __name__ == "__main__":
    main()
