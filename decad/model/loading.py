"""Reading a Hugging Face directory; every failure becomes a ModelError that says what to do.

transformers has no error type for files that it cannot make sense of: besides the built-in ones it lets those of
safetensors and huggingface_hub through, and bare Exception from tokenizers. Hence the broad handlers here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from decad.config import RunSpec
from decad.core.keyed import keyed_bits, uint64
from decad.errors import ConfigError, ModelError, first_line
from decad.model.quiet import quiet_transformers

ADAPTER = "adapter_config.json"
"""transformers puts such an adapter into the model that lies beside it, by itself, where peft is installed."""
CAUSAL_LM, CLASSIFICATION = "causal-lm", "classification"
_CLASSES: dict[str, Any] = {
    CAUSAL_LM: AutoModelForCausalLM,
    CLASSIFICATION: AutoModelForSequenceClassification,
}


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model that decad trains. Raises ModelError."""
    if not directory.is_dir():
        raise ModelError(
            f"{directory} is not a directory. Give --model the local directory of a Hugging Face model "
            "(config.json, tokenizer, safetensors); decad downloads nothing."
        )
    path = directory / "config.json"
    if (directory / ADAPTER).is_file():
        raise ModelError(
            f"{directory} has an adapter ({ADAPTER}) {'beside a whole model' if path.is_file() else 'and no model'}. "
            "decad trains whole models and would not know which of the two is meant. To train what the two make "
            "together, merge them into a directory of their own with peft: "
            "AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(NEW), and save the "
            "tokenizer there too. To train the model without it, move the adapter's files away."
        )
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
    if not isinstance(config, dict) or not config.get("model_type"):
        raise ModelError(
            f"{path} names no model_type, so nobody can tell what model it is. Copy it again from the model's source."
        )
    if config.get("auto_map") and config["model_type"] not in CONFIG_MAPPING:
        raise ModelError(
            f"{directory} needs code of its own (auto_map in config.json), which decad does not run: it would be "
            "somebody's program on every peer. Use a model that transformers knows, or give a module of your own to "
            "decad.api."
        )
    if any(part.get("quantization_config") for part in (config, *_nested(config))):
        raise ModelError(
            f"{directory} holds quantised weights, which cannot be trained. Use the unquantised model, or "
            "convert a GGUF file with `decad model import`."
        )
    return dict(config)


def _nested(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in config.values() if isinstance(part, dict)]


def what_to_train(directory: Path, spec: RunSpec) -> RunSpec:
    """``spec`` with ``task`` and ``labels`` filled in from the model where they were left open.

    Raises ModelError, and ConfigError when a classifier's labels are not known.
    """
    config = read_config(directory)
    task = spec.task if spec.task != "auto" else _task(directory, config)
    found = config.get("id2label") or {}
    named = tuple(str(found[key]) for key in sorted(found, key=int))
    labels = spec.labels
    if task == CLASSIFICATION and not labels:
        labels = named
        if not labels or labels == tuple(f"LABEL_{i}" for i in range(len(labels))):
            raise ConfigError(
                f"{directory} does not say what its classes are. Give them all with --labels A,B,C, the same at every "
                "peer and in the same order, whether or not a peer's own data has examples of each."
            )
    if task == CLASSIFICATION and (len(labels) < 2 or len(set(labels)) < len(labels)):
        raise ConfigError(
            f"A classifier tells two or more classes apart, and those named are {', '.join(labels)}. Name each once "
            "with --labels A,B,C, the same at every peer and in the same order."
        )
    if task == CLASSIFICATION and labels != named and sorted(labels) == sorted(named):
        raise ConfigError(
            f"{directory} has the classes {','.join(named)}, in this order, and --labels names them in another. "
            "Leave --labels out, or give them in the model's order."
        )
    if task == CAUSAL_LM and labels:
        raise ConfigError("--labels is for --task classification. Leave it out, or give that too.")
    return spec.model_copy(update={"task": task, "labels": labels})


def _task(directory: Path, config: dict[str, Any]) -> str:
    made_for = " ".join(config.get("architectures") or ())
    if "ForSequenceClassification" in made_for:
        return CLASSIFICATION
    if "ForCausalLM" in made_for or "LMHeadModel" in made_for:
        return CAUSAL_LM
    raise ModelError(
        f"{directory} holds a {made_for or config['model_type']}, which decad cannot tell to be a causal language "
        "model or a classifier. Say what to train it for: --task causal-lm, or --task classification with --labels."
    )


def load_module(directory: Path, dtype: torch.dtype | Literal["auto"], spec: RunSpec) -> Any:
    """The model on the host in ``dtype`` (auto: the files' own), in evaluation mode, nothing trainable.

    Raises ModelError, and ConfigError when a classifier's head has another number of classes than ``spec``.

    Its weights are the mapped files themselves where the dtype is the files' own. What a classifier's files lack, its
    head, is drawn at random, the same at all peers.
    """
    quiet_transformers()
    try:
        module, found = _CLASSES[spec.task].from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused in words of our own
            **_head_settings(spec),
        )
    except Exception as error:
        raise ModelError(
            f"{directory} cannot be loaded for {spec.task}: {first_line(error)}. Its files may "
            "be damaged or not belong together: copy the directory again from its source."
        ) from error
    _check_shapes(directory, module, found["mismatched_keys"], spec)
    _complete(directory, module, set(found["missing_keys"]), spec)
    # Dropout, where a config asks for it, would make a resumed run a different run.
    module.train(False)
    module.requires_grad_(False)
    return module


def empty_module(directory: Path, dtype: torch.dtype, spec: RunSpec) -> Any:
    """The model's structure, with fresh weights; nothing of its files but config.json is read. Raises ModelError.

    For use under a `FakeTensorMode` or with the ``meta`` device as the default, where weights take no memory.
    """
    config = load_config(directory, spec)
    try:
        module = _CLASSES[spec.task].from_config(config, dtype=dtype, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{directory} describes no model for {spec.task}: {first_line(error)}.") from error
    return module.train(False).requires_grad_(False)


def load_config(directory: Path, spec: RunSpec) -> Any:
    """transformers' config of a directory that decad trains. Raises ModelError."""
    quiet_transformers()
    read_config(directory)
    try:
        return AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, **_head_settings(spec)
        )
    except Exception as error:
        raise ModelError(f"{directory} describes no model for {spec.task}: {first_line(error)}.") from error


def _head_settings(spec: RunSpec) -> dict[str, Any]:
    if spec.task != CLASSIFICATION:
        return {}
    return {
        "num_labels": len(spec.labels),
        "id2label": dict(enumerate(spec.labels)),
        "label2id": {label: index for index, label in enumerate(spec.labels)},
        "problem_type": "single_label_classification",
    }


def _check_shapes(
    directory: Path, module: Any, mismatched: set[tuple[str, Sequence[int], Sequence[int]]], spec: RunSpec
) -> None:
    """Refuse files of which a tensor (name, shape there, shape wanted) does not fit the model."""
    if not mismatched:
        return
    body = f"{module.base_model_prefix}."
    name, there, wanted = min(mismatched, key=lambda tensor: (not tensor[0].startswith(body), tensor[0]))
    if spec.task == CLASSIFICATION and not name.startswith(body) and there[0] != len(spec.labels):
        raise ConfigError(
            f"{directory}: the model's head has {there[0]} classes, and --labels (or config.json, where it is left "
            f"out) names {len(spec.labels)}. Name all {there[0]} with --labels, in the head's order. To train other "
            "classes, give a model without a head: load this one with transformers' AutoModel and save it elsewhere."
        )
    raise ModelError(
        f"{directory}: tensor {name} has the shape {tuple(there)} in the safetensors files, and by config.json "
        f"{tuple(wanted)}. They do not belong together: copy the directory again from its source."
    )


def _complete(directory: Path, module: Any, absent: set[str], spec: RunSpec) -> None:
    """Draw what a classifier's files cannot have, and refuse a model of which anything else is missing.

    transformers fills what is missing with random values, which would differ between peers.
    """
    parameters = dict(module.named_parameters())
    missing = sorted(absent & parameters.keys())
    body = f"{module.base_model_prefix}."
    if spec.task == CLASSIFICATION:
        for name in [name for name in missing if not name.startswith(body) or ".pooler." in name]:
            _draw(name, parameters[name], getattr(module.config, "initializer_range", 0.02))
            missing.remove(name)
    if missing:
        raise ModelError(
            f"{directory}: tensor {missing[0]} is missing in the safetensors files"
            + (f", and {len(missing) - 1} others" if len(missing) > 1 else "")
            + ". They do not fit config.json: copy the directory again from its source."
        )


@torch.no_grad()
def _draw(name: str, parameter: nn.Parameter, scale: float) -> None:
    """A new head's initial values, the same on every machine: zeros for vectors, else uniform with deviation
    ``scale``."""
    if parameter.dim() < 2:
        parameter.zero_()
        return
    bits = uint64(keyed_bits(f"head/{name}", 0), parameter.numel())
    uniform = torch.from_numpy((bits >> 40).astype("float64") / 2**24)
    parameter.copy_(((uniform * 2 - 1) * (3**0.5 * scale)).view(parameter.shape))


def load_tokenizer(directory: Path, task: str) -> Any:
    """The directory's tokenizer, which must know an end-of-text token for a language model, and a token to fill up
    short examples with. Raises ModelError."""
    quiet_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"{directory} has no tokenizer that can be loaded: {first_line(error)}. Copy tokenizer.json and "
            "tokenizer_config.json from the model's source."
        ) from error
    if tokenizer.eos_token_id is None and task == CAUSAL_LM:
        raise ModelError(
            f"{directory}: the tokenizer names no end-of-text token, which separates documents. Set "
            "eos_token in tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"{directory}: the tokenizer names neither a padding nor an end-of-text token, and one of them fills "
                "up short examples. Set pad_token in tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_vocabulary(directory: Path, tokenizer: Any, module: Any) -> None:
    """Refuse a tokenizer of which a token has no row in the embedding. Raises ModelError.

    By the highest number, not by how many there are: a vocabulary may have holes.
    """
    rows = int(module.get_input_embeddings().weight.shape[0])
    token, highest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if highest >= rows:
        raise ModelError(
            f"{directory}: the tokenizer's token {token!r} has the number {highest}, and the model's embedding has "
            f"{rows} rows (0 to {rows - 1}). They do not belong together: copy both from one source; or, where tokens "
            "were added, give the model rows for them with transformers' resize_token_embeddings and save it."
        )
