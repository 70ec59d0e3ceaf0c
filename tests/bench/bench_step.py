"""What one block step costs beside AdamW on all parameters: seconds, and memory above the weights.

    python tests/bench/bench_step.py --model DIR [--quick]

Both train the same model in fp32 on the same 4 x 128 tokens, taking turns in one process, so that whatever else
the machine does falls on all alike; times are medians. A block step is `TrainableModel.gradient` and
`local_step`, without an exchange. Layers are measured every fifth, each standing for those nearest to it.

Memory is what torch allocates (kernels' scratch excepted), at its peak: gradient, moments, master copy,
transients of the block's size, and the exchange's accumulator; activations are counted apart. It is compared
with AdamW's 12 bytes a parameter: gradient and two moments.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.allocations import allocations, peak  # isort: skip  (before torch: it quietens the profiler)

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from decad.core.adam import AdamState, local_step
from decad.core.batch import Batch
from decad.core.blocks import Block
from decad.core.coding import CHUNK_ELEMENTS
from decad.core.constants import AdamConstants
from decad.core.mixing import Mixer
from decad.core.section import Section
from decad.model.objective import NextToken
from decad.model.trainable import TrainableModel

LR = 1e-5
MIB = 2**20
CHUNK = CHUNK_ELEMENTS["fp32"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
    parser.add_argument("--quick", action="store_true", help="three layers and two rounds")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    model = TrainableModel.load(args.model, torch.device("cpu"), torch.float32)
    tokens = torch.randint(0, model.vocab_size, (4, 128), generator=torch.Generator().manual_seed(0))
    batch = Batch.next_token(tokens)
    blocks = weighted_blocks(model, 15 if args.quick else 5)
    steps = [BlockStep(model, block, batch) for block in blocks]
    rivals = {
        "AdamW": FullStep(args.model, tokens, fused=False, chunked_loss=False),
        "AdamW, fused, our loss": FullStep(args.model, tokens, fused=True, chunked_loss=True),
    }

    runners: dict[str, Callable[[], float]] = {name: rival.timed for name, rival in rivals.items()}
    runners |= {step.block.name: step.timed for step in steps}
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for round_ in range(3 if args.quick else 8):
        for name, run in runners.items():
            taken = run()
            if round_:  # the first round warms up
                seconds[name].append(taken)
    times = {name: median(values) for name, values in seconds.items()}

    memory = {step.block.name: step.memory() for step in steps}
    adamw_bytes = 12 * model.plan.numel
    print(
        f"{model.plan.numel / 1e6:.1f} M parameters, {len(model.plan)} blocks, fp32, 4 x 128 tokens, ", end=""
    )
    print(f"{torch.get_num_threads()} threads, medians of {len(seconds['AdamW'])}\n")
    print(f"{'':24}{'weight':>7}{'s':>8}{'of AdamW':>10}{'MiB':>9}{'of 12 B':>9}{'activations MiB':>17}")
    for name, rival in rivals.items():
        above, activations = rival.memory()
        print_row(name, "", times[name], times["AdamW"], above, adamw_bytes, activations)
    for block, weight in blocks.items():
        above, activations = memory[block.name]
        print_row(block.name, str(weight), times[block.name], times["AdamW"], above, adamw_bytes, activations)

    def mean(values: dict[str, float]) -> float:
        return sum(weight * values[block.name] for block, weight in blocks.items()) / len(model.plan)

    shares = {name: above / adamw_bytes for name, (above, _) in memory.items()}
    print()
    for name in rivals:
        print(f"time, mean over blocks, of {name}: {mean(times) / times[name]:.3f}")
    print("  (goal: at most 0.55 of AdamW)")
    print(f"memory, mean over blocks, of 12 bytes a parameter: {mean(shares):.3f} (goal: at most 0.10)")
    print(f"memory, worst block: {max(shares.values()):.3f} (goal: at most 0.36)")


def print_row(
    name: str, weight: str, s: float, adamw_s: float, above: int, adamw: int, activations: int
) -> None:
    print(
        f"{name:24}{weight:>7}{s:8.3f}{s / adamw_s:10.3f}{above / MIB:9.1f}{above / adamw:9.3f}"
        f"{activations / MIB:17.1f}"
    )


def weighted_blocks(model: TrainableModel, stride: int) -> dict[Block, int]:
    """Blocks to measure and how many each stands for: every ``stride``-th layer, the last one, and all others."""
    layers = [block for block in model.plan.blocks if block.name.startswith("layer.")]
    measured = [*layers[:-1:stride], layers[-1]]
    weights = {block: 1 for block in model.plan.blocks if block not in layers}
    weights |= dict.fromkeys(measured, 0)
    for layer in layers:
        weights[min(measured, key=lambda block: abs(block.index - layer.index))] += 1
    return weights


class BlockStep:
    """One block's step on the shared model; its moments live on from visit to visit."""

    def __init__(self, model: TrainableModel, block: Block, batch: Batch) -> None:
        self.block = block
        self._model = model
        self._batch = batch
        self._state = AdamState.zeros(block.numel, "cpu")

    def timed(self) -> float:
        master = self._model.activate(self.block)
        start = time.perf_counter()
        _, gradient = self._model.gradient(self._batch)
        local_step(master, gradient, self._state, AdamConstants(), LR)
        self._model.sync()
        taken = time.perf_counter() - start
        self._model.deactivate(seed=0, step=0)
        return taken

    def memory(self) -> tuple[int, int]:
        """Bytes above the weights at the worst moment, and of activations."""
        block = self.block
        sizes = {4 * slot.numel for slot in block.slots} | {4 * block.numel}
        held: list[Tensor] = []

        def activate() -> None:
            held.append(self._model.activate(block))

        def differentiate() -> None:
            held.append(self._model.gradient(self._batch)[1])

        activated = peak(allocations(activate), ())
        differentiated = peak(allocations(differentiate), sizes)
        master, gradient = held
        stepped = peak(
            allocations(lambda: local_step(master, gradient, self._state, AdamConstants(), LR)), ()
        )
        exchanged = peak(allocations(lambda: self._exchange(master, gradient)), ())
        self._model.deactivate(seed=0, step=0)
        moments = self._state.m.nbytes + self._state.v.nbytes
        most = max(differentiated.named, gradient.nbytes + max(stepped.total, exchanged.total))
        return moments + activated.left + most, differentiated.other

    @staticmethod
    def _exchange(master: Tensor, gradient: Tensor) -> None:
        """Mix with one neighbour; the gradient's buffer is the accumulator."""
        mixer = Mixer({Section.BLOCK: gradient.zero_()}, CHUNK, {Section.BLOCK: master})
        for index, piece in enumerate(torch.split(master, CHUNK)):
            mixer.add("neighbour", Section.BLOCK, index, 0.5, piece.clone())
        master.add_(mixer.finish()[Section.BLOCK])


class FullStep:
    """AdamW on all parameters."""

    def __init__(self, directory: Path, batch: Tensor, *, fused: bool, chunked_loss: bool) -> None:
        self._module: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).train(False)
        self._optimiser = torch.optim.AdamW(self._module.parameters(), lr=LR, fused=fused)
        self._batch = batch
        self._objective = NextToken(self._module)
        self._chunked_loss = chunked_loss

    def timed(self) -> float:
        start = time.perf_counter()
        self._step()
        return time.perf_counter() - start

    def _step(self) -> None:
        if self._chunked_loss:
            loss = self._objective.loss(Batch.next_token(self._batch))
        else:
            loss = self._module(input_ids=self._batch, labels=self._batch, use_cache=False).loss
        torch.autograd.backward(loss)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def memory(self) -> tuple[int, int]:
        """Bytes above the weights at the worst moment, and of activations."""
        sizes = {parameter.nbytes for parameter in self._module.parameters()}
        moments = sum(t.nbytes for state in self._optimiser.state.values() for t in state.values())
        used = peak(allocations(self._step), sizes)
        return moments + used.named, used.other


if __name__ == "__main__":
    main()
