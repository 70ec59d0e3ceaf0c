"""A causal language model of which one block at a time is trained.

The module's parameters are views of one flat vector a block, in the load dtype. In fp32 that vector is the
master copy itself, so an active block costs no second copy; in bf16 the active block has an fp32 master.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from decad.core.blocks import Block, BlockPlan
from decad.errors import InternalError, ModelError
from decad.model.layout import llama_plan
from decad.model.loading import load_module, load_tokenizer, read_config
from decad.model.loss import next_token_loss
from decad.model.rounding import round_stochastically
from decad.model.weights import BaseWeights


class _Active(NamedTuple):
    block: Block
    master: Tensor
    """fp32 [n] on the device; in fp32 it is the block's flat vector itself."""


class TrainableModel:
    """One model on one device; at most one block is active. Not for use by two threads at once."""

    plan: BlockPlan
    model_hash: str
    """SHA-256 (hex) of the base weights on disk; the load dtype does not enter."""
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype

    def __init__(self, module: Any, base: BaseWeights, tokenizer: Any, device: torch.device) -> None:
        """Take over ``module`` (on the host); `load` is the usual way in."""
        self.tokenizer = tokenizer
        self.device = device
        self._base = base
        self._module = module
        self._parameters = dict(module.named_parameters())  # tied weights once, under the embedding's name
        self.dtype = next(iter(self._parameters.values())).dtype
        self.plan = llama_plan({name: p.shape for name, p in self._parameters.items()})
        self.model_hash = base.sha256()
        self._flat = [self._gather(block) for block in self.plan.blocks]
        module.to(device)  # what is left: the rotary embedding's buffers
        self._active: _Active | None = None

    @classmethod
    def load(cls, directory: Path, device: torch.device, dtype: torch.dtype) -> TrainableModel:
        """Load a Hugging Face directory onto ``device`` in float32 or bfloat16. Raises ModelError."""
        config = read_config(directory)
        base = BaseWeights(directory)
        module = load_module(directory, dtype)
        _check_complete(directory, module, base)
        tokenizer = load_tokenizer(directory)
        if len(tokenizer) > config["vocab_size"]:
            raise ModelError(
                f"{directory}: the tokenizer knows {len(tokenizer)} tokens and the model "
                f"{config['vocab_size']}. They do not belong together: copy both from one source."
            )
        return cls(module, base, tokenizer, device)

    @property
    def context_length(self) -> int:
        """Tokens of the longest sequence that the model was made for."""
        return int(self._module.config.max_position_embeddings)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return int(self._module.config.vocab_size)

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

    def gradient(self, batch: Tensor) -> tuple[float, Tensor]:
        """Mean next-token loss over ``batch`` (int64 [b, s]) and its gradient in the active block, fp32 [n].

        The gradient is a fresh tensor that belongs to the caller. DECA eq. for g: grad_k F_i(theta; batch).
        """
        block, _ = self._need_active()
        loss = next_token_loss(self._module, batch.to(self.device), "mean")
        gradients = list(torch.autograd.grad(loss, [self._parameters[slot.name] for slot in block.slots]))
        return loss.item(), _flatten(gradients, block)

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

    def reference(self, block: Block) -> Tensor:
        """The base model's values of ``block`` as fp32 [n] on the host, from disk: equal at all peers."""
        return self._base.flat(block)

    @torch.no_grad()
    def evaluate(self, batch: Tensor) -> float:
        """Mean next-token loss over ``batch`` (int64 [b, s])."""
        # Token by token, then averaged in fp32: a mean taken in bf16 has three digits.
        return next_token_loss(self._module, batch.to(self.device), "none").float().mean().item()

    def _gather(self, block: Block) -> Tensor:
        flat = torch.empty(block.numel, dtype=self.dtype, device=self.device)
        for name, view in block.views(flat).items():
            view.copy_(self._parameters[name].data)
            self._parameters[name].data = view
        return flat

    def _require_grad(self, block: Block, required: bool) -> None:
        for slot in block.slots:
            self._parameters[slot.name].requires_grad_(required)

    def _need_active(self) -> _Active:
        if self._active is None:
            raise InternalError("no block is active")
        return self._active


def _flatten(gradients: list[Tensor], block: Block) -> Tensor:
    """Gradients in slot order -> one flat fp32 vector; empties the list as it goes, to free each early."""
    if len(gradients) == 1:
        return gradients.pop().reshape(-1).to(torch.float32)
    flat = torch.empty(block.numel, dtype=torch.float32, device=gradients[0].device)
    for view in block.views(flat).values():
        view.copy_(gradients.pop(0))
    return flat


def _check_complete(directory: Path, module: Any, base: BaseWeights) -> None:
    # transformers fills what is missing with random values, which would differ between peers.
    on_disk = set(base.names)
    for name, parameter in module.named_parameters():
        if name not in on_disk or base.shape(name) != tuple(parameter.shape):
            found = f"has shape {base.shape(name)}" if name in on_disk else "is missing"
            raise ModelError(
                f"{directory}: tensor {name} should have shape {tuple(parameter.shape)} and {found} in the "
                "safetensors files. They do not fit config.json: copy the directory again from its source."
            )
