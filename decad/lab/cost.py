"""What a step of each method takes on one machine: seconds and memory, each in a process of its own."""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor

from decad.config import RunSpec
from decad.core.batch import Batch
from decad.daemon.adapters import Adapters
from decad.daemon.phase import ActiveBlock, TrainingRule
from decad.errors import OperatorError
from decad.lab.methods.dec_lora import DecLora
from decad.model.division import NONE, divide
from decad.model.loading import empty_module, what_to_train
from decad.model.trainable import TrainableModel

LR = 1e-5
IN_FP32 = 16
"""Bytes of a value with its gradient and moments."""
SAMPLED_S = 0.002
"""Between two looks at the memory."""


@dataclass(frozen=True)
class Cost:
    """Bytes and seconds. From ``weights`` to ``exchange`` they are counted from tensors; the peak is measured."""

    method: str
    trained: int
    """Parameters with a gradient at one time."""
    step_s: float
    """Median; of decad and BAdam the mean of the medians of the first, middle and last block."""
    weights: int
    gradients: int
    optimiser: int
    """Moments and fp32 master copies."""
    exchange: int
    activations: int
    """What the peak has beyond them."""
    peak: int
    """Most private memory of the process, above what Python and its libraries take."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    model: Path
    dtype: str = "float32"
    batch_size: int = 4
    seq_len: int = 128
    steps: int = 3
    threads: int = 0
    rank: int = 8


class Stepper(Protocol):
    """One method on a loaded model."""

    trained: int
    gradients: int
    optimiser: int
    exchange: int

    def parts(self) -> Iterable[Callable[[Batch], None]]:
        """Steps to be measured, one kind after the other; each is called several times before the next is asked for."""
        ...


def measure(setting: Setting, methods: Sequence[str]) -> Iterable[Cost]:
    """Each of ``methods`` (keys of `METHODS`) in a new process. Raises OperatorError."""
    for name in methods:
        if name not in METHODS:
            raise OperatorError(f"There is no method {name}. There are {', '.join(METHODS)}.")
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            yield pool.submit(measure_here, setting, name).result()


def measure_here(setting: Setting, name: str) -> Cost:
    """One method in this process, of which it takes the memory for its own."""
    if setting.threads:
        torch.set_num_threads(setting.threads)
    dtype = torch.bfloat16 if setting.dtype == "bfloat16" else torch.float32
    torch.zeros(1).add_(1)
    before = _private()
    spec = RunSpec.model_validate(SPECS[name](setting.rank) if name in SPECS else {})
    model = TrainableModel.load(setting.model, torch.device("cpu"), dtype, spec)
    generator = torch.Generator().manual_seed(0)
    shape = (setting.batch_size, setting.seq_len)
    tokens = torch.randint(0, min(model.vocab_size, 1000), shape, generator=generator)
    batch = Batch.next_token(tokens) if model.spec.task == "causal-lm" else Batch(tokens, tokens[:, 0] * 0)
    stepper = METHODS[name](model, setting)
    weights = sum(part.nbytes for part in [*model.module.parameters(), *model.module.buffers()])
    medians: list[float] = []
    with _Peak() as peak:
        for step in stepper.parts():
            step(batch)  # the first allocates
            times = []
            for _ in range(setting.steps):
                begun = time.perf_counter()
                step(batch)
                times.append(time.perf_counter() - begun)
            medians.append(median(times))
    counted = weights + stepper.gradients + stepper.optimiser + stepper.exchange
    return Cost(
        method=name,
        trained=stepper.trained,
        step_s=sum(medians) / len(medians),
        weights=weights,
        gradients=stepper.gradients,
        optimiser=stepper.optimiser,
        exchange=stepper.exchange,
        activations=max(0, peak.bytes - before - counted),
        peak=peak.bytes - before,
    )


# -- methods ------------------------------------------------------------------------------------------------------


class AdamW:
    """torch's AdamW on all parameters; below fp32 with fp32 master copies, as mixed-precision training has them."""

    exchange = 0

    def __init__(self, model: TrainableModel, setting: Setting) -> None:
        self._model = model
        self._parameters = [p.requires_grad_(True) for p in _trainable(model)]
        narrow = model.dtype != torch.float32
        self._masters = [p.detach().float() for p in self._parameters] if narrow else self._parameters
        self._optimiser = torch.optim.AdamW(self._masters, lr=LR)
        self.trained = sum(p.numel() for p in self._parameters)
        self.gradients = self.trained * (4 + model.dtype.itemsize if narrow else 4)
        self.optimiser = self.trained * (12 if narrow else 8)

    def parts(self) -> Iterable[Callable[[Batch], None]]:
        yield self._step

    def _step(self, batch: Batch) -> None:
        self._model.objective.loss(batch).backward()  # type: ignore[no-untyped-call]  # torch has no annotation
        if self._masters is not self._parameters:
            for master, parameter in zip(self._masters, self._parameters, strict=True):
                master.grad = None if parameter.grad is None else parameter.grad.float()
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        if self._masters is not self._parameters:
            for master, parameter in zip(self._masters, self._parameters, strict=True):
                parameter.data.copy_(master)
                parameter.grad = None


class Lora(AdamW):
    """AdamW on adapters of all linear layers (peft)."""

    def __init__(self, model: TrainableModel, setting: Setting) -> None:
        super().__init__(DecLora(rank=setting.rank).prepare(model), setting)


class BAdam:
    """The published optimiser (badam), a block a layer."""

    exchange = 0

    def __init__(self, model: TrainableModel, setting: Setting) -> None:
        try:
            from badam import BlockOptimizer
        except ImportError:
            raise OperatorError("The method badam needs its package: pip install badam.") from None
        self._model, self._kind = model, BlockOptimizer
        self._layers = sorted({_layer(n) for n, _ in model.module.named_parameters()} - {""}, key=_number)
        self._named = list(model.module.named_parameters())
        self.trained = max(
            sum(p.numel() for n, p in self._named if _layer(n) == each) for each in self._layers
        )
        # It makes fp32 copies of the block and of its gradient whatever the dtype.
        self.gradients = self.trained * (4 + model.dtype.itemsize)
        self.optimiser = self.trained * 12

    def parts(self) -> Iterable[Callable[[Batch], None]]:
        for place in (0, len(self._layers) // 2, len(self._layers) - 1):
            prefixes = [[f"{layer}."] for layer in self._layers]
            with redirect_stdout(StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it would rather have bf16
                optimiser = self._kind(
                    base_optimizer=torch.optim.AdamW([p for _, p in self._named], lr=LR),
                    named_parameters_list=self._named,
                    block_prefix_list=prefixes,
                    switch_block_every=10**9,
                    start_block=place,
                    verbose=0,
                )

            def step(batch: Batch, optimiser: Any = optimiser) -> None:
                self._model.objective.loss(batch).backward()  # type: ignore[no-untyped-call]  # no annotation
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)

            yield step


class Decad:
    """A block's step as the daemon takes it, but for the network: nobody is mixed with."""

    def __init__(self, model: TrainableModel, setting: Setting) -> None:
        self._model = model
        self._rule = TrainingRule(model.spec.settled(lr=LR, adapter_lr=LR))
        block = max(block.numel for block in model.plan.blocks)
        beside = 0 if model.adapters is None else model.adapters.numel
        self._adapters: Adapters | None = None
        if model.adapters is not None:
            rule = self._rule
            self._adapters = Adapters(model.adapter_values, rule.adapter_rate, rule.constants)
        self.trained = block + beside
        self.gradients = 4 * self.trained
        self.optimiser = block * (8 if model.dtype == torch.float32 else 12) + 8 * beside
        self.exchange = 0

    def parts(self) -> Iterable[Callable[[Batch], None]]:
        count = len(self._model.plan)
        for place in sorted({0, count // 2, count - 1}, reverse=True):
            active = ActiveBlock(self._model, self._model.plan[place], self._rule, adapters=self._adapters)

            def step(batch: Batch, active: ActiveBlock = active) -> None:
                _, gradient = self._model.gradient(batch)
                mixer = active.coding.mixer(active.half_step(gradient, 0), 0, 0)
                active.finish_step(mixer, 0)

            yield step
            self._model.deactivate(seed=0, step=0)


METHODS: Mapping[str, Callable[[TrainableModel, Setting], Stepper]] = {
    "adamw": AdamW,
    "lora": Lora,
    "badam": BAdam,
    "decad": Decad,
    "decad-adapters": Decad,
    "adapters-alone": Decad,
}
SPECS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "decad-adapters": lambda rank: {"adapters": rank},
    "adapters-alone": lambda rank: {"adapters": rank, "blocks": NONE},
}
"""What a run of the method sets, by the rank of adapters."""


def formula(parameters: int, blocks: int, largest: int, dtype_bytes: int, adapters: int) -> dict[str, int]:
    """Bytes of weights, gradients and optimiser, without activations.

    BAdam's paper (arXiv 2404.02827, table 1) counts 2M + 16M/D bytes for M parameters in D blocks held in 16 bits: of
    the active block a gradient, a master copy and two moments in fp32. Its program keeps the gradient as it came too.
    ``largest``: parameters of decad's largest block, ``adapters``: those of LoRA, which decad holds in fp32.
    """
    held = dtype_bytes * parameters
    each = 16 if dtype_bytes < 4 else 12
    return {
        "adamw": held + (each + (dtype_bytes if dtype_bytes < 4 else 0)) * parameters,
        "lora": held + dtype_bytes * adapters + (each + (dtype_bytes if dtype_bytes < 4 else 0)) * adapters,
        "badam": held + (12 + dtype_bytes + 4) * parameters // blocks,
        "decad": held + each * largest,
        "decad-adapters": held + each * largest + IN_FP32 * adapters,
        "adapters-alone": held + IN_FP32 * adapters,
    }


def said(setting: Setting) -> dict[str, int]:
    """`formula` of a model, whose weights are not read."""
    with torch.device("meta"):
        spec = what_to_train(setting.model, RunSpec())
        module = empty_module(setting.model, torch.float32, spec)
    plan = divide(module)
    adapters = sum(
        setting.rank * sum(part.weight.shape)
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear) and part is not module.get_output_embeddings()
    )
    largest = max(block.numel for block in plan.blocks)
    narrow = 2 if setting.dtype == "bfloat16" else 4
    layers = {_layer(name) for name, _ in module.named_parameters()} - {""}
    return formula(plan.numel, len(layers), largest, narrow, adapters)


def _trainable(model: TrainableModel) -> list[Tensor]:
    named = dict(model.module.named_parameters())
    names = dict.fromkeys(slot.name for block in model.plan.blocks for slot in block.slots)
    return [named[name] for name in names]


def _layer(name: str) -> str:
    found = re.match(r"(.*?\.\d+)\.", name)
    return found[1] if found else ""


def _number(layer: str) -> int:
    return int(layer.rpartition(".")[2])


class _Peak:
    """Largest private memory of this process while it is open."""

    def __init__(self) -> None:
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLED_S):
            self.bytes = max(self.bytes, _private())


def _private() -> int:
    with open(f"/proc/{os.getpid()}/status") as file:
        return 1024 * int(next(line for line in file if line.startswith("RssAnon")).split()[1])
