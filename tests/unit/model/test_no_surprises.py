"""Loading does what was asked and nothing else, and what would go wrong later is found at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import save_tiny
from transformers import AutoTokenizer

from decad.config import RunSpec
from decad.errors import ConfigError, ModelError
from decad.model.export import export_model
from decad.model.length import USUAL, context_length, sequence_length
from decad.model.loading import load_config
from decad.model.trainable import TrainableModel


@pytest.fixture
def copy(tmp_path: Path, tied_dir: Path) -> Path:
    return Path(shutil.copytree(tied_dir, tmp_path / "model"))


def load(directory: Path) -> TrainableModel:
    return TrainableModel.load(directory, torch.device("cpu"), torch.float32)


def change(path: Path, **changes: Any) -> None:
    read = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(read | changes))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, about a name in transformers
def test_an_adapter_beside_a_model_is_refused_with_what_to_do(copy: Path) -> None:
    peft = pytest.importorskip("peft")
    module = load(copy).module
    peft.get_peft_model(module, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(copy)
    for read in (load, lambda directory: load_config(directory, RunSpec(task="causal-lm"))):
        with pytest.raises(
            ModelError, match=r"beside a whole model.*merge_and_unload.*move the adapter's files away"
        ):
            read(copy)
    (copy / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has an adapter \(adapter_config.json\) and no model"):
        load(copy)


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_no_code_of_a_model_is_run(copy: Path, where: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    names = {
        "AutoConfig": "evil.Evil",
        "AutoModelForCausalLM": "evil.Evil",
        "AutoTokenizer": ["evil.Evil", "evil.Evil"],
    }
    change(copy / where, auto_map=names, **({"model_type": "evil"} if where == "config.json" else {}))
    if where == "config.json":
        with pytest.raises(ModelError, match="needs code of its own"):
            load(copy)
    else:
        load(copy)
    assert not ran.exists()


def test_quantised_parts_are_refused_too(copy: Path) -> None:
    change(copy / "config.json", text_config={"quantization_config": {"quant_method": "gptq"}})
    with pytest.raises(ModelError, match="quantised"):
        load(copy)


@pytest.mark.parametrize(
    "generation", [{"temperature": 0.5, "do_sample": False}, {"num_beams": 1, "early_stopping": True}]
)
def test_what_makes_the_export_fail_is_found_at_the_start(
    copy: Path, tmp_path: Path, generation: dict[str, Any]
) -> None:
    """Whatever of it this version of transformers minds: the start minds it too."""
    change(copy / "generation_config.json", **generation)
    spec = load(save_tiny("llama", tmp_path / "good")).spec
    exported: Exception | None = None
    try:
        export_model(copy, tmp_path / "out", {}, spec)
    except Exception as error:
        exported = error
    if exported is None:
        load(copy)
        return
    with pytest.raises(
        ModelError, match=r"could be trained, but not written again: .*Mend generation_config.json"
    ):
        load(copy)


def test_a_token_without_a_row_is_refused_by_its_number(copy: Path) -> None:
    """Not by how many there are: with a hole in the vocabulary fewer tokens have higher numbers."""
    read = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = read["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    vocabulary[last] = 300
    (copy / "tokenizer.json").write_text(json.dumps(read))
    assert len(AutoTokenizer.from_pretrained(copy)) <= 258
    with pytest.raises(
        ModelError, match=r"has the number 300, and the model's embedding has 258 rows \(0 to 257\)"
    ):
        load(copy)


@pytest.mark.parametrize("longest", [64, 254, 512, 4096])
def test_an_unset_length_is_what_the_model_takes_at_most(longest: int) -> None:
    assert sequence_length(None, longest) == min(USUAL, longest)
    assert sequence_length(longest, longest) == longest
    with pytest.raises(ConfigError, match=f"--seq-len {longest + 1} is longer than the {longest} tokens"):
        sequence_length(longest + 1, longest)


@pytest.mark.parametrize(
    ("family", "longest"), [("gpt2", 512), ("opt", 512), ("bert", 512), ("roberta", 254)]
)
def test_what_a_model_takes_is_read_under_every_name(tmp_path: Path, family: str, longest: int) -> None:
    directory = save_tiny(family, tmp_path / "model")
    spec = (
        RunSpec(task="classification", labels=("a", "b"))
        if longest == 254 or family == "bert"
        else RunSpec(task="causal-lm")
    )
    assert context_length(load_config(directory, spec)) == longest
