"""Which parameter of a Llama-architecture model belongs to which block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from decad.core.blocks import BlockPlan
from decad.errors import ModelError

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"
LLAMA_LIKE = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Values of config.json's model_type: layers under model.layers, an unscaled linear head without bias."""

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def llama_plan(shapes: Mapping[str, Sequence[int]]) -> BlockPlan:
    """Blocks ``embedding``, ``layer.0`` .. ``layer.L-1``, ``head``, input side first.

    ``shapes``: every parameter once, so tied weights come under the embedding's name only; the final norm
    then joins the last layer and there is no head block. Raises ModelError for another architecture.
    """
    layers: dict[int, list[str]] = {}
    for name in shapes:
        if match := _LAYER.match(name):
            layers.setdefault(int(match[1]), []).append(name)
    _refuse_strangers(name for name in shapes if not _LAYER.match(name))
    if not layers or EMBEDDING not in shapes or FINAL_NORM not in shapes:
        raise ModelError(
            "the model has no decoder layers, no token embedding or no final norm. "
            "decad trains causal language models of the Llama architecture."
        )
    groups = [("embedding", [EMBEDDING])]
    groups += [(f"layer.{index}", layers[index]) for index in sorted(layers)]
    if HEAD in shapes:
        groups.append(("head", [FINAL_NORM, HEAD]))
    else:
        groups[-1][1].append(FINAL_NORM)
    return BlockPlan.build(groups, shapes)


def _refuse_strangers(names: Iterable[str]) -> None:
    strangers = sorted(set(names) - {EMBEDDING, FINAL_NORM, HEAD})
    if strangers:
        raise ModelError(
            f"the model has parameters that no Llama-architecture model has: {', '.join(strangers[:3])}. "
            "decad trains Llama-architecture models without adapters or extra heads."
        )
