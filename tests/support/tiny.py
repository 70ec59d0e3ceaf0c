"""A Llama-architecture model that fits in a test: random weights, a byte-level tokenizer, about 100 kB."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from decad.model.quiet import quiet_transformers

EOS = "<|endoftext|>"
"""Token 256: the 256 bytes come first, then the special tokens. It also begins a sequence."""
PAD = "<|pad|>"
VOCAB = 258


def make_tiny_llama(
    directory: Path, *, seed: int = 0, tied: bool = True, layers: int = 2, hidden: int = 32
) -> Path:
    """Write a Hugging Face directory (config, tokenizer, fp32 safetensors) and return it.

    Equal arguments write equal weights. ``hidden`` is a multiple of 8; ``tied`` shares embedding and head.
    """
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=257,
    )
    quiet_transformers()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    save_byte_tokenizer(directory)
    return directory


def save_byte_tokenizer(directory: Path) -> None:
    """One token a byte: ByteLevel maps the 256 bytes to printable characters, BPE has no merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers types it in part
        tokenizer_object=tokenizer, bos_token=EOS, eos_token=EOS, pad_token=PAD
    )
    fast.save_pretrained(directory)
