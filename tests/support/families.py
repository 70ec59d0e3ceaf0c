"""Tiny models with random weights, one of each family that decad is known to train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    RobertaConfig,
)
from transformers.utils import logging

from support.tiny import save_byte_tokenizer

_COMMON: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.1,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 257,
}
_GATED: dict[str, Any] = {
    **_COMMON,
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_ENCODER: dict[str, Any] = {**_COMMON, "intermediate_size": 48, "max_position_embeddings": 512}

CAUSAL: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**_GATED),
    "llama, tied": lambda: LlamaConfig(**_GATED, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**_GATED),
    "qwen3": lambda: Qwen3Config(**_GATED, head_dim=8),
    "mistral": lambda: MistralConfig(**_GATED),
    "gemma2": lambda: Gemma2Config(**_GATED, head_dim=8),
    "gemma3": lambda: Gemma3TextConfig(**_GATED, head_dim=8),
    "phi3": lambda: Phi3Config(**_GATED),
    "gpt2": lambda: GPT2Config(**{**_COMMON, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "opt": lambda: OPTConfig(**_COMMON, ffn_dim=48, word_embed_proj_dim=16, max_position_embeddings=512),
    "gpt-neox": lambda: GPTNeoXConfig(**_ENCODER),
    "mixtral": lambda: MixtralConfig(**_GATED, num_local_experts=4),
    "qwen2-moe": lambda: Qwen2MoeConfig(
        **_GATED,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
    ),
}
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertConfig(**_ENCODER),
    "roberta": lambda: RobertaConfig(**_ENCODER),
    "llama classifier": lambda: LlamaConfig(**_GATED),
}


def tiny(family: str, labels: int = 2, seed: int = 0) -> Any:
    """A module in evaluation mode, all of it trainable."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.manual_seed(seed)
    if family in CAUSAL:
        auto: Any = AutoModelForCausalLM
        return auto.from_config(CAUSAL[family]()).train(False)
    config = CLASSIFIERS[family]()
    config.num_labels = labels
    auto = AutoModelForSequenceClassification
    return auto.from_config(config).train(False)


def save_tiny(family: str, directory: Path, labels: int = 2, seed: int = 0) -> Path:
    """Its Hugging Face directory, with a tokenizer of bytes."""
    tiny(family, labels, seed).save_pretrained(directory)
    save_byte_tokenizer(directory)
    return directory
