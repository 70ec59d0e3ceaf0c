"""A language model or classifier of which one block at a time is trained.

The module's parameters are views of one flat vector a block, in the load dtype. In fp32 that vector is the
master copy itself, so an active block costs no second copy; in bf16 the active block has an fp32 master.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from decad.config import RunSpec
from decad.core.batch import Examples, Score
from decad.core.blocks import Block, BlockPlan
from decad.core.privacy import LocalPrivacy, PrivateSum
from decad.errors import ConfigError, InternalError
from decad.model.adapters import plan_of, put_adapters, take_fp32
from decad.model.export import check_export
from decad.model.length import context_length
from decad.model.loading import (
    CAUSAL_LM,
    check_vocabulary,
    load_module,
    load_tokenizer,
    what_to_train,
)
from decad.model.meaning import meaning_of
from decad.model.objective import Classes, NextToken, Objective
from decad.model.rate import rates
from decad.model.rounding import round_stochastically
from decad.model.weights import BaseWeights


class _Active(NamedTuple):
    block: Block
    master: Tensor
    """fp32 [n] on the device; in fp32 it is the block's flat vector itself."""


class TrainableModel:
    """One model on one device; at most one block is active. Not for use by two threads at once."""

    plan: BlockPlan
    spec: RunSpec
    """The run spec with everything in it that the model settles: task, labels, hashes, rate."""
    model_hash: str
    """SHA-256 (hex) of the base weights on disk; the load dtype does not enter."""
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    module: Any
    """What is trained, in place."""
    objective: Objective
    adapters: Block | None = None
    """What is trained beside every block, as if it were the block after the last."""

    def __init__(
        self,
        module: Any,
        spec: RunSpec,
        objective: Objective,
        tokenizer: Any,
        device: torch.device,
        micro_batch: int = 0,
        privacy: LocalPrivacy | None = None,
    ) -> None:
        """Take over ``module`` (on the host); `load` is the usual way in."""
        self.tokenizer = tokenizer
        self.device = device
        self.module = module
        self.objective = objective
        self.micro_batch, self.privacy = micro_batch, privacy
        self._parameters = dict(module.named_parameters())  # tied weights once, under the embedding's name
        self.dtype = next(iter(self._parameters.values())).dtype
        self.plan = plan_of(module, spec)
        self.model_hash = spec.model_hash
        self.spec = spec.settled(plan_hash=self.plan.fingerprint, **rates(module, spec))
        self._flat = self._gather()
        module.to(device)  # what is left: frozen parameters, and buffers
        self._active: _Active | None = None

    @classmethod
    def load(
        cls,
        directory: Path,
        device: torch.device,
        dtype: torch.dtype,
        spec: RunSpec = RunSpec(),  # noqa: B008  # frozen
        *,
        micro_batch: int = 0,
        checkpointing: bool = False,
        privacy: LocalPrivacy | None = None,
    ) -> TrainableModel:
        """Load a Hugging Face directory onto ``device`` in float32 or bfloat16.

        ``spec`` says what it is trained for and how it is divided; ``micro_batch``: examples of one forward and
        backward pass, 0 for all of a batch; ``checkpointing``: keep a layer's input alone and make the rest again on
        the way back; ``privacy``: of each example in `gradient`. Raises ModelError and ConfigError.
        """
        spec = what_to_train(directory, spec)
        base = BaseWeights(directory)
        module = load_module(directory, dtype, spec)
        tokenizer = load_tokenizer(directory, spec.task)
        check_vocabulary(directory, tokenizer, module)
        check_export(directory, module)
        if checkpointing:
            keep_inputs_alone(directory, module)
        causal = spec.task == CAUSAL_LM
        objective = NextToken(module) if causal else Classes(module, tokenizer.pad_token_id)
        measured = {
            "model_hash": base.sha256(),
            "model_files": meaning_of(module.config, tokenizer, spec.task),
        }
        spec = spec.model_copy(update=measured)
        model = cls(module, spec, objective, tokenizer, device, micro_batch, privacy)
        if spec.adapters:
            model._adapt()
        return model

    @property
    def context_length(self) -> int:
        """Tokens of the longest sequence that the model was made for."""
        return context_length(self.module.config)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return int(self.module.get_input_embeddings().weight.shape[0])

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Everything that training changes: the blocks of the plan, and after them the adapters, if there are any."""
        return (*self.plan.blocks, *([] if self.adapters is None else [self.adapters]))

    def _adapt(self) -> None:
        """Put the run's low-rank adapters beside the linear layers; a classifier's head joins them."""
        block, parameters = put_adapters(self.module, self.spec, len(self.plan))
        memory = torch.empty(block.numel, device=self.device)
        for name, view in block.views(memory).items():
            parameters[name].data = view.copy_(parameters[name].data)
            parameters[name].requires_grad_(True)
        if self.dtype != torch.float32:
            take_fp32(self.module, parameters.keys() & self._parameters.keys())
        self.adapters = block
        self._parameters |= parameters
        self._flat.append(memory)

    @property
    def adapter_values(self) -> Tensor:
        """The adapters' values, fp32 [a] on the device: what the forward pass uses, to be changed in place."""
        return self._flat[len(self.plan)]

    def activate(self, block: Block) -> Tensor:
        """Make ``block`` the trained one and return its fp32 master copy [n] on the device.

        Change the master in place, then call `sync`. In fp32 the master is the weights.
        """
        if self._active is not None:
            raise InternalError(
                f"{self._active.block.name} is still active: {block.name} cannot be activated"
            )
        self._active = _Active(block, self._flat[block.index].to(torch.float32))
        self._require_grad(block, True)
        return self._active.master

    def gradient(
        self, batch: Examples, interrupted: Callable[[], bool] = lambda: False
    ) -> tuple[float, Tensor]:
        """Mean loss over the predictions of ``batch`` (on the host) and its gradient in the active block, fp32 [n].

        With adapters [n + a], theirs after the block's. The gradient is a fresh tensor that belongs to the caller.
        Comes back at the next micro-batch, with what it has, once ``interrupted``. DECA eq. for g: grad_k F_i(theta;
        batch). With privacy see `decad.core.privacy`.
        """
        block, _ = self._need_active()
        if self.privacy is not None:
            return self._private_gradient(batch, block, self.privacy, interrupted)
        trained = self._trained_beside(block)
        parameters = self._parameters_of(trained)
        total, every = 0.0, batch.predictions
        flat: Tensor | None = None
        for part in batch.split(self.micro_batch):
            if interrupted():
                break
            if not (predictions := part.predictions):
                continue  # a mean over nothing is not a number
            loss = self.objective.loss(part.to(self.device))
            # Experts that no token was sent to, or a pooler that the task does not use, have none.
            gradients = list(torch.autograd.grad(loss, parameters, materialize_grads=True))
            total += loss.item() * predictions / every
            flat = add_up(gradients, trained, predictions / every, flat)
        if flat is None:
            flat = torch.zeros(sum(part.numel for part in trained), device=self.device)
        return total, flat

    def _trained_beside(self, block: Block) -> list[Block]:
        return [block] if self.adapters is None else [block, self.adapters]

    def _parameters_of(self, blocks: list[Block]) -> list[Tensor]:
        return [self._parameters[slot.name] for block in blocks for slot in block.slots]

    def _private_gradient(
        self, batch: Examples, block: Block, privacy: LocalPrivacy, interrupted: Callable[[], bool]
    ) -> tuple[float, Tensor]:
        """One example at a time, each with the mean over its own predictions."""
        trained = self._trained_beside(block)
        parameters = self._parameters_of(trained)
        private = PrivateSum(privacy, sum(part.numel for part in trained), self.device)
        total, parts = 0.0, batch.split(1)
        for part in parts:
            if interrupted():
                break
            if not part.predictions:
                continue
            loss = self.objective.loss(part.to(self.device))
            gradients = list(torch.autograd.grad(loss, parameters, materialize_grads=True))
            private.add(add_up(gradients, trained, 1.0, None))
            total += loss.item() / len(parts)
        return total, private.finish(len(parts))

    def sync(self) -> None:
        """Cast the master into the weights that the forward pass uses; nothing to do in fp32."""
        block, master = self._need_active()
        if self.dtype != torch.float32:
            self._flat[block.index].copy_(master)

    def deactivate(self, *, seed: int, step: int) -> None:
        """End the phase and keep the master's values; bf16 weights take them by stochastic rounding.

        ``seed`` is the run's and ``step`` the phase's last, the same at all peers, and so is the noise.
        """
        block, master = self._need_active()
        if self.dtype != torch.float32:
            round_stochastically(master, self._flat[block.index], seed=seed, step=step, block=block.index)
        self._require_grad(block, False)
        self._active = None

    def block(self, index: int) -> Tensor:
        """The values of a block as fp32 [n] on the host: a copy. Of the active block, its master."""
        active = self._active
        source = active.master if active is not None and active.block.index == index else self._flat[index]
        return source.to("cpu", torch.float32, copy=True)

    def set_block(self, index: int, flat: Tensor) -> None:
        """Overwrite an inactive block with ``flat`` (fp32 [n], any device), rounded to nearest in bf16."""
        if self._active is not None and self._active.block.index == index:
            raise InternalError(f"{self._active.block.name} is active: write its master instead")
        self._flat[index].copy_(flat)

    def evaluate(self, batch: Examples) -> Score:
        """How well the model does on ``batch`` (on the host)."""
        parts = [part for part in batch.split(self.micro_batch) if part.predictions]
        scores = [self.objective.score(part.to(self.device)) for part in parts]
        return reduce(Score.plus, scores, Score(0.0, 0))

    def _gather(self) -> list[Tensor]:
        """One flat vector a block, of which the parameters become views. A parameter's rows stay together in memory
        if they are divided among blocks, so those blocks share one stretch of it."""
        flats: list[Tensor] = []
        for blocks in _chains(self.plan):
            memory = torch.empty(sum(block.numel for block in blocks), dtype=self.dtype, device=self.device)
            start = 0
            for block in blocks:
                for slot in block.slots:
                    if slot.first_row == 0:
                        parameter = self._parameters[slot.name]
                        offset = start + slot.offset
                        view = memory[offset : offset + parameter.numel()].view(parameter.shape)
                        parameter.data = view.copy_(parameter.data)
                flats.append(memory[start : start + block.numel])
                start += block.numel
        return flats

    def _require_grad(self, block: Block, required: bool) -> None:
        for slot in block.slots:
            self._parameters[slot.name].requires_grad_(required)

    def _need_active(self) -> _Active:
        if self._active is None:
            raise InternalError("no block is active")
        return self._active


def add_up(gradients: list[Tensor], blocks: Sequence[Block], weight: float, flat: Tensor | None) -> Tensor:
    """Add ``weight`` times the parameters' gradients, in the order of the blocks' slots, to ``flat``, fp32 [n], and
    return it. ``n``: elements of all ``blocks``. Empties the list as it goes, to free each early.
    """
    numel = sum(block.numel for block in blocks)
    if flat is None and weight == 1 and gradients[0].numel() == numel:
        return gradients.pop().reshape(-1).to(torch.float32)
    sums = torch.empty(numel, device=gradients[0].device) if flat is None else flat
    for block, part in zip(blocks, torch.split(sums, [block.numel for block in blocks]), strict=True):
        for slot, view in zip(block.slots, block.views(part).values(), strict=True):
            gradient = slot.part_of(gradients.pop(0))
            if flat is None:
                view.copy_(gradient).mul_(weight)
            else:
                view.add_(gradient, alpha=weight)
    return sums


def _chains(plan: BlockPlan) -> Iterator[list[Block]]:
    """Blocks in their order, those together that share a parameter's rows."""
    chain: list[Block] = []
    for block in plan.blocks:
        if chain and not (block.slots and block.slots[0].first_row):
            yield chain
            chain = []
        chain.append(block)
    yield chain


def keep_inputs_alone(directory: Path, module: Any) -> None:
    """Turn gradient checkpointing on. Raises ConfigError for an architecture without it."""
    if not module.supports_gradient_checkpointing:
        raise ConfigError(
            f"The architecture of {directory} has no gradient checkpointing. Leave --gradient-checkpointing out, and "
            "give a smaller --micro-batch where memory is short."
        )
    module.activation_checkpointing_enable()
    for layer in module.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            # It is for training only, and so is dropout, which stays off: of these modules alone, not of their parts.
            layer.training = True
            if isinstance(getattr(layer, "dropout", None), float):
                layer.dropout = 0.0  # type: ignore[assignment]  # a plain number to transformers
