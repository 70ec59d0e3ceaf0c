"""Reading a Hugging Face directory; every failure becomes a ModelError that says what to do.

transformers has no error type for files that it cannot make sense of: besides the built-in ones it lets those of
safetensors and huggingface_hub through, and bare Exception from tokenizers. Hence the broad handlers here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from decad.errors import ModelError
from decad.model.layout import LLAMA_LIKE
from decad.model.quiet import quiet_transformers


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model that decad trains. Raises ModelError."""
    if not directory.is_dir():
        raise ModelError(
            f"{directory} is not a directory. Give --model the local directory of a Hugging Face model "
            "(config.json, tokenizer, safetensors); decad downloads nothing."
        )
    path = directory / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{directory} has no config.json, so it is not a Hugging Face model directory. Download the "
            "whole model, or convert a GGUF file with `decad model import`."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} is not readable JSON ({error}). Copy it again from the model's source."
        ) from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in LLAMA_LIKE:
        raise ModelError(
            f"{directory} holds a model of type {kind!r}. decad trains causal language models of the Llama "
            f"architecture: {', '.join(sorted(LLAMA_LIKE))}. Choose one of those."
        )
    if config.get("quantization_config"):
        raise ModelError(
            f"{directory} holds quantised weights, which cannot be trained. Use the unquantised model, or "
            "convert a GGUF file with `decad model import`."
        )
    return dict(config)


def load_module(directory: Path, dtype: torch.dtype) -> Any:
    """The model on the host in ``dtype``, in evaluation mode, nothing trainable. Raises ModelError."""
    quiet_transformers()
    try:
        module = AutoModelForCausalLM.from_pretrained(
            directory, local_files_only=True, use_safetensors=True, dtype=dtype
        )
    except Exception as error:
        raise ModelError(
            f"{directory} cannot be loaded as a causal language model: {first_line(error)}. Its files may "
            "be damaged or not belong together: copy the directory again from its source."
        ) from error
    # Dropout, where a config asks for it, would make a resumed run a different run; fine-tuning of Llama
    # models uses none.
    module.train(False)
    module.requires_grad_(False)
    return module


def load_tokenizer(directory: Path) -> Any:
    """The directory's tokenizer, which must know an end-of-text token. Raises ModelError."""
    quiet_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        raise ModelError(
            f"{directory} has no tokenizer that can be loaded: {first_line(error)}. Copy tokenizer.json and "
            "tokenizer_config.json from the model's source."
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{directory}: the tokenizer names no end-of-text token, which separates documents. Set "
            "eos_token in tokenizer_config.json."
        )
    return tokenizer


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
