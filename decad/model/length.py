"""How long a sequence a model can take."""

from __future__ import annotations

from typing import Any

from decad.errors import ConfigError

_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")
"""Architectures whose positions begin after their padding token's id."""


def context_length(config: Any) -> int:
    """Tokens of the longest sequence that a transformers model with ``config`` was made for."""
    text = config.get_text_config()
    reserved = text.pad_token_id + 1 if text.model_type in _POSITIONS_AFTER_PADDING else 0
    return int(getattr(text, "max_position_embeddings", 0) or 1 << 20) - reserved


def check_length(seq_len: int, longest: int) -> None:
    """Refuse sequences that are longer than a model was made for. Raises ConfigError."""
    if seq_len > longest:
        raise ConfigError(
            f"--seq-len {seq_len} is longer than the {longest} tokens that this model was made for. Give that or less."
        )
