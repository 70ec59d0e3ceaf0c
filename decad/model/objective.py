"""What a model is trained for: the loss of a batch, computed without ever holding all logits, and its score."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import cross_entropy, linear_cross_entropy
from torch.utils.checkpoint import checkpoint

from decad.core.batch import IGNORED, Batch, Score

CHUNK = 256
"""Logits of so many tokens at a time: a 49,152-token vocabulary then takes 50 MB in fp32, once and not thrice, however
long the batch. 128 took 6 % longer for a whole step of the last layer, torch's automatic size over three times."""
_OPTIONS = LinearCrossEntropyOptions(batch_chunk_size=CHUNK)


class Objective(Protocol):
    """A batch lies on the model's device, and is of the kind that the objective is made for. It has at least one
    prediction."""

    def loss(self, batch: Any) -> Tensor:
        """Mean loss over the batch's predictions: a scalar with its graph."""
        ...

    def score(self, batch: Any) -> Score:
        """The same in a form that can be added up over batches, without a graph."""
        ...


class NextToken:
    """Cross entropy of every token given those before it."""

    def __init__(self, module: Any, whole: bool | None = None) -> None:
        """``module``: a transformers causal language model with its weights.

        ``whole``: whether the architecture makes its logits in a way of its own, so that they are all held at once;
        None finds out.
        """
        self._module = module
        self._head = module.get_output_embeddings()
        self._cap: float | None = getattr(module.config.get_text_config(), "final_logit_softcapping", None)
        self._whole = not self._head_makes_the_logits() if whole is None else whole

    def loss(self, batch: Batch) -> Tensor:
        if self._whole or self._cap is not None:
            return self._losses(batch).sum() / (batch.targets != IGNORED).sum()
        return self._linear(batch, "mean")

    @torch.no_grad()
    def score(self, batch: Batch) -> Score:
        # Token by token, then added up in fp32: a mean taken in bf16 has three digits.
        return Score(self._losses(batch).float().sum().item(), batch.predictions)

    def _losses(self, batch: Batch) -> Tensor:
        """[b * s], 0 where there is no target."""
        if self._whole:
            return _losses(self._logits(batch).flatten(0, 1), batch.targets.flatten())
        if self._cap is None:
            return self._linear(batch, "none")
        hidden, targets = self._hidden(batch).flatten(0, 1), batch.targets.flatten()
        pairs = zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True)
        # The logits of a chunk are made again on the way back.
        return torch.cat(
            [
                checkpoint(lambda h, t: _losses(self._capped(h), t), *pair, use_reentrant=False)
                for pair in pairs
            ]
        )

    def _linear(self, batch: Batch, reduction: Literal["mean", "none"]) -> Tensor:
        return linear_cross_entropy(
            self._hidden(batch).flatten(0, 1),
            self._head.weight,
            batch.targets.flatten(),
            linear_bias=self._head.bias,
            reduction=reduction,
            ignore_index=IGNORED,
            options=_OPTIONS,
        )

    def _hidden(self, batch: Batch) -> Tensor:
        """[b, s, d]"""
        hidden: Tensor = self._module.base_model(**_inputs(batch), use_cache=False).last_hidden_state
        return hidden

    def _logits(self, batch: Batch) -> Tensor:
        """[b, s, vocabulary], by the model's own forward pass."""
        logits: Tensor = self._module(**_inputs(batch), use_cache=False).logits
        return logits

    def _capped(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(hidden)
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    @torch.no_grad()
    def _head_makes_the_logits(self) -> bool:
        """Found by trying: each architecture is free to scale or shift what its head gives."""
        if self._head is None:
            return False
        tokens = torch.arange(4, device=self._module.device).unsqueeze(0)
        tokens %= self._head.weight.shape[0]
        probe = Batch(tokens, tokens)
        made, expected = self._capped(self._hidden(probe)).float(), self._logits(probe).float()
        return torch.allclose(made, expected, rtol=1e-2, atol=1e-3)


class Classes:
    """Cross entropy of each example's class."""

    def __init__(self, module: Any, padding: int) -> None:
        """``module``: a transformers sequence classifier; ``padding``: the token that fills up short examples."""
        self._module = module
        # Decoders find an example's last token by it.
        module.config.get_text_config().pad_token_id = module.config.pad_token_id = padding

    def loss(self, batch: Batch) -> Tensor:
        return cross_entropy(self._logits(batch), batch.targets, ignore_index=IGNORED)

    @torch.no_grad()
    def score(self, batch: Batch) -> Score:
        logits = self._logits(batch)
        total = cross_entropy(logits, batch.targets, reduction="sum", ignore_index=IGNORED).item()
        return Score(total, batch.predictions, int((logits.argmax(dim=1) == batch.targets).sum()))

    def _logits(self, batch: Batch) -> Tensor:
        logits: Tensor = self._module(**_inputs(batch)).logits
        return logits.float()


def _inputs(batch: Batch) -> dict[str, Tensor | None]:
    mask = None if batch.mask is None else batch.mask.to(torch.int64)
    return {"input_ids": batch.inputs, "attention_mask": mask}


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits.float(), targets, reduction="none", ignore_index=IGNORED)
