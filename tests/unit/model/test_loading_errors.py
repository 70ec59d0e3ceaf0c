"""Every way in which a model directory can be wrong ends in one paragraph that says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import CLASSIFIERS, save_tiny

from decad.config import RunSpec
from decad.errors import ConfigError, ModelError
from decad.model.trainable import TrainableModel


@pytest.fixture
def copy(tmp_path: Path, tied_dir: Path) -> Path:
    return Path(shutil.copytree(tied_dir, tmp_path / "model"))


def change_config(directory: Path, **changes: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))


def refuse(directory: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as refusal:
        TrainableModel.load(directory, torch.device("cpu"), torch.float32)
    assert "\n" not in str(refusal.value)
    assert str(directory) in str(refusal.value)


def test_missing_directory(tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", "is not a directory. Give --model")


def test_a_file_instead_of_a_directory(copy: Path) -> None:
    refuse(copy / "config.json", "is not a directory")


def test_no_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    refuse(copy, r"has no config\.json")


@pytest.mark.parametrize("text", ["{", "\xff"])
def test_damaged_config(copy: Path, text: str) -> None:
    (copy / "config.json").write_bytes(text.encode("latin-1"))
    refuse(copy, "not readable JSON")


@pytest.mark.parametrize("kind", ["bert", "gemma2"])
def test_the_weights_of_another_architecture(copy: Path, kind: str) -> None:
    change_config(copy, model_type=kind)
    refuse(copy, r"tensor \S+ is missing .*, and \d+ others\. They do not fit config\.json")


def test_a_model_of_no_type(copy: Path) -> None:
    change_config(copy, model_type=None)
    refuse(copy, "names no model_type")


def test_a_model_made_for_something_else(copy: Path) -> None:
    change_config(copy, architectures=["LlamaForTokenClassification"])
    refuse(copy, "LlamaForTokenClassification.*Say what to train it for: --task")


def test_quantised_weights(copy: Path) -> None:
    change_config(copy, quantization_config={"quant_method": "gguf"})
    refuse(copy, "quantised weights")


def test_only_pickled_weights(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refuse(copy, "holds no safetensors weights")


def test_no_tokenizer(copy: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    refuse(copy, "has no tokenizer that can be loaded.*Copy tokenizer.json")


def test_damaged_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    refuse(copy, "has no tokenizer that can be loaded")


def test_tokenizer_without_end_of_text(copy: Path) -> None:
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    refuse(copy, "names no end-of-text token")


def test_tokenizer_larger_than_the_model(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"][:200].clone()
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    change_config(copy, vocab_size=200, bos_token_id=1, eos_token_id=1, pad_token_id=1)
    refuse(copy, "token '<.pad.>' has the number 257, and the model's embedding has 200 rows")


def test_a_missing_tensor_is_not_made_up(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    refuse(copy, r"model\.layers\.1\.mlp\.up_proj\.weight is missing in")


def test_a_tensor_of_another_shape(copy: Path) -> None:
    change_config(copy, intermediate_size=48)
    refuse(copy, r"mlp\.\w+\.weight has the shape \(\d+, \d+\) in the .*, and by config\.json \(\d+, \d+\)")


@pytest.mark.parametrize("family", CLASSIFIERS)
@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "c", "d")])
def test_a_head_of_another_number_of_classes(family: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    spec = RunSpec(task="classification", labels=labels)
    with pytest.raises(
        ConfigError, match=rf"head has 3 classes, and --labels .* names {len(labels)}\. Name all 3"
    ):
        TrainableModel.load(save_tiny(family, tmp_path, labels=3), torch.device("cpu"), torch.float32, spec)


def test_a_config_without_sense(copy: Path) -> None:
    change_config(copy, hidden_size="wide")
    refuse(copy, "cannot be loaded")


def test_loading_is_silent(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    TrainableModel.load(copy, torch.device("cpu"), torch.float32)
    assert capfd.readouterr() == ("", "")
