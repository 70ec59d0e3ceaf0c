"""What of a model's files decides what a parameter means, besides the weights: peers that differ in it train two.

Averaging them would average embeddings of different words, or layers that are computed in different ways.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import GenerationConfig

from decad.model.length import POSITIONS_AFTER_PADDING

LONGEST = 48
"""Characters of a value that is told as it is; of others a hash is."""

_SAYS_NOTHING = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "architectures",
        "auto_map",
        "tokenizer_class",
        "vocab_file",
        "use_cache",
        "torchscript",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "gradient_checkpointing",
        "pruned_heads",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "language",
        "attn_implementation",
        "experts_implementation",
    }
)
"""Keys of config.json for places, versions, number formats and the like, and the labels, which the run spec has."""
_GENERATION = frozenset(GenerationConfig().to_dict())  # type: ignore[no-untyped-call]
"""Keys that only generation reads."""
_TOKENIZER_SAYS_NOTHING = frozenset({"version", "truncation", "padding", "decoder"})
_SPECIAL = ("bos_token", "eos_token", "unk_token")
_CLASSIFIERS_SPECIAL = ("pad_token", "sep_token", "cls_token", "mask_token")


def meaning_of(config: Any, tokenizer: Any, task: str) -> dict[str, str]:
    """``file key`` -> its value, or a hash of it: what every peer of a run must have alike.

    ``config``, ``tokenizer``: of transformers. A key of config.json is left out where it has the value that the
    architecture has without it, so that a file that names defaults is as one that does not.
    """
    found = {f"config.json {key}": value for key, value in _of_config(config, task)}
    found |= {f"tokenizer.json {key}": value for key, value in _of_tokenizer(tokenizer)}
    special = _SPECIAL if task == "causal-lm" else (*_SPECIAL, *_CLASSIFIERS_SPECIAL)
    found |= {f"tokenizer_config.json {name}": getattr(tokenizer, name, None) for name in special}
    return {key: _told(value) for key, value in found.items()}


def template_of(tokenizer: Any) -> str:
    """Of the chat template: a hash; empty where there is none."""
    template = getattr(tokenizer, "chat_template", None)
    return _told(template, 0) if template else ""


def _of_config(config: Any, task: str) -> Iterator[tuple[str, Any]]:
    try:
        usual = type(config)().to_dict()
    except (TypeError, ValueError):  # an architecture that has no usual form
        usual = {}
    # By this a classifier's new head is drawn.
    also = {"initializer_range"} if task == "classification" else set()
    if config.model_type in POSITIONS_AFTER_PADDING:
        also.add("pad_token_id")
    yield "model_type", config.model_type
    yield from _differing(config.to_dict(), usual, also)


def _differing(
    given: Mapping[str, Any], usual: Mapping[str, Any], also: set[str]
) -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        if key.startswith("_") or key in (_SAYS_NOTHING | _GENERATION) - also or "drop" in key:
            continue
        if key.startswith(("initializer", "init_")) and key not in also:
            continue
        if isinstance(value, dict):
            inside = usual.get(key)
            for name, part in _differing(value, inside if isinstance(inside, dict) else {}, also):
                yield f"{key}.{name}", part
        elif value != usual.get(key):
            yield key, value


def _of_tokenizer(tokenizer: Any) -> Iterator[tuple[str, Any]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one of transformers' own, in Python
        yield "vocabulary", sorted(tokenizer.get_vocab().items())
        yield "kind", type(tokenizer).__name__
        return
    for key, value in json.loads(backend.to_str()).items():
        if key == "model":
            rest = {name: part for name, part in value.items() if name not in ("vocab", "merges")}
            yield "model", rest
            yield "model.vocab", value.get("vocab")
            yield "model.merges", value.get("merges")
        elif key not in _TOKENIZER_SAYS_NOTHING:
            yield key, value


def _told(value: Any, longest: int = LONGEST) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    if len(text) <= longest:
        return text
    return f"sha256 {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
