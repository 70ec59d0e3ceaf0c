"""How much memory training a model takes, found by going through a step without doing its arithmetic.

The model is built of torch's fake tensors, which have shapes and storages but no values, and the code that trains it
runs on them; every storage is followed from its making to its end. What a kernel keeps for itself in passing is not
seen.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from decad.config import RunSpec
from decad.core.adam import AdamState, local_step
from decad.core.batch import Batch
from decad.core.blocks import Block, BlockPlan
from decad.core.constants import AdamConstants
from decad.model.adapters import head_beside, plan_of, put_adapters
from decad.model.division import divide
from decad.model.length import context_length, sequence_length
from decad.model.loading import CAUSAL_LM, empty_module
from decad.model.objective import CHUNK, Classes, NextToken, Objective
from decad.model.trainable import add_up, keep_inputs_alone


class Need(NamedTuple):
    """Bytes of training one block, above what Python and its libraries take."""

    weights: int
    """Of the whole model in the load dtype."""
    optimiser: int
    """The block's moments, and its master copy where the weights are not its own."""
    step: int
    """At the worst moment of a step, above the two: activations, gradients, temporaries."""
    exchange: int
    """Public copies, which an encoding of changes needs."""

    @property
    def total(self) -> int:
        return self.weights + self.optimiser + self.step + self.exchange


def measure(
    directory: Path,
    spec: RunSpec,
    dtype: torch.dtype,
    batch_size: int,
    seq_len: int,
    neighbours: int = 1,
    *,
    micro_batch: int = 0,
    checkpointing: bool = False,
) -> tuple[BlockPlan, int, int, list[Need]]:
    """The plan, the numbers of frozen parameters and of values beside every block, and what each block needs.

    A step is on ``batch_size`` sequences of ``seq_len`` tokens, ``micro_batch`` of them at a time, 0 for all. Of blocks
    that differ in their layer alone the first and the last are gone through; a layer's need grows evenly with the
    layers above it. With adapters every step goes back as far as the deepest; their own activations, a small part, are
    left out. Raises ModelError and ConfigError.
    """
    adapters = _adapters(directory, dtype, spec) if spec.adapters else 0
    with FakeTensorMode():
        module = empty_module(directory, dtype, spec)
        sequence_length(seq_len, context_length(module.config))
        if checkpointing:
            keep_inputs_alone(directory, module)
        plan = plan_of(module, spec)
        sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
        every, head = sum(sizes.values()), sum(sizes[name] for name in head_beside(module, spec))
        objective: Objective = (
            NextToken(module, whole=False) if spec.task == CAUSAL_LM else Classes(module, 0)
        )
        sequences = min(batch_size, micro_batch or batch_size)
        tokens = torch.zeros((sequences, seq_len), dtype=torch.int64)
        batch = (
            Batch.next_token(tokens)
            if spec.task == CAUSAL_LM
            else Batch(tokens, torch.zeros(sequences, dtype=torch.int64))
        )
        # With adapters alone a step is a layer's, without what that takes for the layer's own gradient.
        gone_through = plan if plan.numel else divide(module)
        steps = _steps(
            gone_through, lambda block: _step(module, objective, block, batch, summed=sequences < batch_size)
        )
    if adapters:
        spared = 0 if plan.numel else 4 * min(block.numel for block in gone_through.blocks)
        steps = [max(steps) + 4 * adapters - spared] * len(plan)
    needs = [
        Need(
            weights=(every - head) * dtype.itemsize + 4 * adapters,
            optimiser=block.numel * (8 if dtype == torch.float32 else 12) + 8 * adapters,
            step=step,
            exchange=0 if spec.encoding == "fp32" else (block.numel + adapters) * (4 + 2 + 4 * neighbours),
        )
        for block, step in zip(plan.blocks, steps, strict=True)
    ]
    return plan, every - head - plan.numel, adapters, needs


def _adapters(directory: Path, dtype: torch.dtype, spec: RunSpec) -> int:
    """How many values are trained beside every block."""
    with torch.device("meta"):
        module = empty_module(directory, dtype, spec)
    return put_adapters(module, spec, 1, empty=True)[0].numel


def _steps(plan: BlockPlan, measured: Callable[[Block], int]) -> list[int]:
    """What each block's step takes, with few of them measured."""
    alike: dict[object, list[Block]] = {}
    for block in plan.blocks:
        kind = tuple((re.sub(r"\.\d+\.", ".#.", slot.name), slot.shape[1:]) for slot in block.slots)
        alike.setdefault(kind, []).append(block)
    found = [0] * len(plan)
    for blocks in alike.values():
        first, last = blocks[0].index, blocks[-1].index
        found[first] = measured(blocks[0])
        found[last] = found[first] if first == last else measured(blocks[-1])
        for block in blocks[1:-1]:
            share = (block.index - first) / (last - first)
            found[block.index] = round(found[first] + share * (found[last] - found[first]))
    return found


def _step(module: Any, objective: Objective, block: Block, batch: Batch, *, summed: bool) -> int:
    """``summed``: the gradient is one of several that are added up."""
    parameters = [module.get_parameter(slot.name) for slot in block.slots]
    state, master = AdamState.zeros(block.numel, "cpu"), torch.zeros(block.numel)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        with _Live([*module.parameters(), *module.buffers(), state.m, state.v, master]) as live:
            before = torch.zeros(block.numel) if summed else None
            loss = objective.loss(batch)
            forward: int = live.now
            gradients = list(torch.autograd.grad(loss, parameters, materialize_grads=True))
            del loss
            gradient = add_up(gradients, [block], 1.0, before)
            local_step(master, gradient, state, AdamConstants(), 1e-4)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    head = module.get_output_embeddings()
    peak: int = live.peak
    if head is None:
        return peak
    return max(
        peak, forward + _loss_bytes(head.weight, any(parameter is head.weight for parameter in parameters))
    )


def _loss_bytes(weight: Tensor, trained: bool) -> int:
    """What torch's chunked cross entropy takes inside, as measured on the CPU: it is one operator to the tracker.

    The logits of a chunk in fp32; below fp32, the weights in fp32 too, and if they are trained their gradient.
    """
    logits, wide = int(CHUNK * weight.shape[0] * 4), int(weight.numel() * 4)
    if weight.dtype == torch.float32:
        return logits + (wide // 2 if trained else 0)
    return logits + (4 * wide if trained else wide)


GROUPED = torch.ops.aten._grouped_mm.default
"""How transformers multiplies with the experts of a mixture."""


def _grouped(*args: Any, **kwargs: Any) -> Tensor:
    """Its result's shape in every dtype: torch computes in all, and knows the shapes for bfloat16 alone."""
    dtype = args[0].dtype
    halved = (
        part.bfloat16() if isinstance(part, Tensor) and part.is_floating_point() else part for part in args
    )
    result: Tensor = GROUPED(*halved, **kwargs)
    return result.to(dtype)


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch types it in part
    """Counts the storages that operators make, until they are freed; ``there`` already: not counted."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in there)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = _grouped(*args, **(kwargs or {})) if func is GROUPED else func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known.add(storage)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, storage.nbytes())

    def _freed(self, size: int) -> None:
        self.now -= size
