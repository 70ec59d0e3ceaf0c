from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from decad.model.layout import LLAMA_LIKE, llama_plan
from decad.model.loss import next_token_loss

CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


@pytest.fixture(params=[(kind, tied) for kind in CONFIGS for tied in (True, False)], ids=str)
def module(request: pytest.FixtureRequest) -> Any:
    kind, tied = request.param
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    config = CONFIGS[kind](
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=tied,
        initializer_range=0.1,
    )
    return auto.from_config(config).train(False)


def plain_losses(module: Any, batch: Tensor) -> Tensor:
    logits = module(input_ids=batch).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")


@pytest.fixture
def long_batch() -> Tensor:
    """3 x 100 predictions, so that the chunks of 256 are used."""
    return torch.randint(0, 300, (3, 101), generator=torch.Generator().manual_seed(2))


def test_every_architecture_that_is_accepted_is_tested() -> None:
    assert set(CONFIGS) == LLAMA_LIKE


def test_loss_and_gradients_equal_those_of_plain_cross_entropy(module: Any, long_batch: Tensor) -> None:
    parameters = list(module.parameters())
    expected_loss = plain_losses(module, long_batch).mean()
    expected = torch.autograd.grad(expected_loss, parameters)
    loss = next_token_loss(module, long_batch, "mean")
    torch.testing.assert_close(loss, expected_loss)
    for got, want in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_token_losses_equal_those_of_plain_cross_entropy(module: Any, long_batch: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(
            next_token_loss(module, long_batch, "none"), plain_losses(module, long_batch)
        )


def test_the_layout_covers_every_parameter(module: Any) -> None:
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    assert llama_plan(shapes).numel == sum(parameter.numel() for parameter in module.parameters())
