"""What of a tokenizer decides which tokens a record becomes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from typing import Any


def fingerprint_of(tokenizer: Any) -> str:
    """SHA-256 (hex): of vocabulary, merges, normaliser and the like, special tokens, chat template, and the libraries.

    ``tokenizer``: of transformers, fast or slow; of another kind, what there is of these.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = getattr(tokenizer, "get_vocab", dict)
    about = {
        "kind": type(tokenizer).__name__,
        "rules": backend.to_str() if backend is not None else sorted(vocabulary().items()),
        "special": {name: getattr(tokenizer, name, None) for name in _SPECIAL},
        "template": str(getattr(tokenizer, "chat_template", None)),
        "settings": {
            key: value
            for key, value in getattr(tokenizer, "init_kwargs", {}).items()
            if isinstance(value, bool | int | float | str) and key not in _PLACES
        },
        "libraries": {name: importlib.metadata.version(name) for name in ("tokenizers", "transformers")},
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


_SPECIAL = (
    *(
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "unk_token_id",
        "sep_token_id",
        "cls_token_id",
        "mask_token_id",
    ),
    "all_special_ids",
)
_PLACES = {"name_or_path", "tokenizer_file", "vocab_file", "merges_file", "cache_dir"}
"""Where it was read from, which changes nothing."""
