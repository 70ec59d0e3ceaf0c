"""How long a sequence a model can take."""

from __future__ import annotations

from typing import Any

from decad.errors import ConfigError

USUAL = 512
"""Tokens of a sequence where nobody says otherwise and the model can."""
_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
"""What architectures call it."""
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")
"""Architectures whose positions begin after their padding token's id."""


def context_length(config: Any) -> int:
    """Tokens of the longest sequence that a transformers model with ``config`` was made for."""
    text = config.get_text_config()
    reserved = text.pad_token_id + 1 if text.model_type in POSITIONS_AFTER_PADDING else 0
    named = (getattr(text, name, None) for name in _NAMES)
    return int(next((length for length in named if length), 1 << 20)) - reserved


def sequence_length(asked: int | None, longest: int) -> int:
    """Tokens of one sequence; unset, the smaller of `USUAL` and what the model was made for. Raises ConfigError."""
    if asked is None:
        return min(USUAL, longest)
    if asked > longest:
        raise ConfigError(
            f"--seq-len {asked} is longer than the {longest} tokens that this model was made for. Give that or less, "
            "or leave it out."
        )
    return asked
