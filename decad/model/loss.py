"""The next-token loss, computed without ever holding all logits."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import linear_cross_entropy

# Logits of 256 tokens at a time: a 49,152-token vocabulary then takes 50 MB in fp32, once and not thrice, however
# long the batch. 128 took 6 % longer for a whole step of the last layer, torch's automatic size over three times.
_OPTIONS = LinearCrossEntropyOptions(batch_chunk_size=256)


def next_token_loss(module: Any, batch: Tensor, reduction: Literal["mean", "none"]) -> Tensor:
    """Cross entropy of every token given those before it.

    ``module``: a Llama-architecture causal LM; ``batch``: token ids, int64 [b, s], s >= 2. Each sequence
    gives s - 1 predictions and none is ignored. Returns a scalar for ``mean``, [b * (s - 1)] for ``none``, in
    the module's dtype.
    """
    # The last token predicts nothing, and no earlier position sees it: leave it out of the forward pass.
    hidden = module.model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state
    return linear_cross_entropy(
        hidden.flatten(0, 1),
        module.lm_head.weight,
        batch[:, 1:].flatten(),
        reduction=reduction,
        options=_OPTIONS,
    )
