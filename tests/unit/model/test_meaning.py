"""The same weights may mean two models: what else must be alike, what need not be, and what is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import CAUSAL, CLASSIFIERS, save_tiny
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors

from decad.config import RunSpec
from decad.membership.agreement import Keep, Refuse, agree, parse_spec
from decad.model.trainable import TrainableModel

LABELS = ("bad", "good")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("bert", tmp_path_factory.mktemp("bert") / "model")


def load(directory: Path, dtype: torch.dtype = torch.float32) -> TrainableModel:
    labels = LABELS if "bert" in str(directory) else ()
    return TrainableModel.load(directory, torch.device("cpu"), dtype, RunSpec(labels=labels))


def verdict(mine: RunSpec, theirs: RunSpec) -> Keep | Refuse:
    """Of the one end, which the other must share, after the way over the wire."""
    mine, theirs = parse_spec(mine.canonical()), parse_spec(theirs.canonical())
    here = agree(mine, (), False, "aa", theirs, (), False, "bb")
    there = agree(theirs, (), False, "bb", mine, (), False, "aa")
    assert type(here) is type(there)
    assert isinstance(here, Keep | Refuse)
    return here


def config(**changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def without(key: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))

    return change


def tokenizer(edit: Callable[[Any], None]) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = str(directory / "tokenizer.json")
        made = Tokenizer.from_file(path)
        edit(made)
        made.save(path)

    return change


def json_of(name: str, edit: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        read = json.loads((directory / name).read_text())
        edit(read)
        (directory / name).write_text(json.dumps(read))

    return change


def swap_two_words(read: dict[str, Any]) -> None:
    vocabulary = read["model"]["vocab"]
    a, b = list(vocabulary)[65:67]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]


def with_merges(read: dict[str, Any]) -> None:
    vocabulary = read["model"]["vocab"]
    (a, b) = list(vocabulary)[65:67]
    vocabulary[a + b] = 258
    read["model"]["merges"] = [[a, b]]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (
            config(rope_parameters={"rope_theta": 123.0, "rope_type": "default"}),
            "config.json rope_parameters.rope_theta",
        ),
        (config(rms_norm_eps=1e-3), "config.json rms_norm_eps"),
        (config(hidden_act="gelu"), "config.json hidden_act"),
        (
            config(num_attention_heads=2, head_dim=16, num_key_value_heads=1),
            "config.json num_attention_heads",
        ),
        (json_of("tokenizer.json", swap_two_words), "tokenizer.json model.vocab"),
        (json_of("tokenizer.json", with_merges), "tokenizer.json model.merges"),
        (tokenizer(lambda t: setattr(t, "normalizer", normalizers.Lowercase())), "tokenizer.json normalizer"),
        (
            tokenizer(lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Whitespace())),
            "tokenizer.json pre_tokenizer",
        ),
        (
            tokenizer(lambda t: setattr(t, "post_processor", processors.ByteLevel())),
            "tokenizer.json post_processor",
        ),
        (tokenizer(lambda t: t.add_tokens(["new"])), "tokenizer.json added_tokens"),
        (
            json_of("tokenizer_config.json", lambda read: read.update(eos_token="<|pad|>")),
            "tokenizer_config.json eos_token",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_parameter_means_must_be_alike(
    llama: Path, tmp_path: Path, change: Callable[[Path], None], key: str
) -> None:
    other = Path(shutil.copytree(llama, tmp_path / "llama"))
    change(other)
    try:
        theirs = load(other).spec
    except Exception as error:  # a change that this architecture cannot load is no test
        pytest.fail(f"{key}: {error}")
    mine = load(llama).spec
    assert mine.model_hash == theirs.model_hash
    refused = verdict(mine, theirs)
    assert isinstance(refused, Refuse)
    assert key in {difference.field for difference in refused.fields}
    assert all(difference.mine != difference.theirs for difference in refused.fields)


@pytest.mark.parametrize(
    "change",
    [
        config(_name_or_path="/elsewhere", transformers_version="4.1.0"),
        config(torch_dtype="bfloat16", dtype="bfloat16"),
        config(use_cache=False, architectures=["LlamaForCausalLM"]),
        config(attention_dropout=0.1, initializer_range=0.5),
        config(temperature=0.3, eos_token_id=7, bos_token_id=8, pad_token_id=9),
        config(id2label={"0": "x", "1": "y"}),
        config(rope_parameters={"rope_theta": 10000.0, "rope_type": "default"}),
        without("mlp_bias"),
        without("hidden_act"),
        without("rms_norm_eps"),
        tokenizer(lambda t: t.enable_truncation(100)),
        tokenizer(lambda t: t.enable_padding(length=100)),
        json_of("tokenizer_config.json", lambda read: read.update(pad_token="<|endoftext|>")),
        json_of("tokenizer_config.json", lambda read: read.update(model_max_length=99)),
        json_of("tokenizer_config.json", lambda read: read.update(chat_template="{{ messages }}")),
    ],
)
def test_what_changes_no_parameter_need_not_be_alike(
    llama: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    other = Path(shutil.copytree(llama, tmp_path / "llama"))
    change(other)
    mine, theirs = load(llama).spec, load(other).spec
    assert isinstance(verdict(mine, theirs), Keep)
    assert mine.fingerprint == theirs.fingerprint


def test_another_number_format_is_the_same_model(llama: Path) -> None:
    assert load(llama).spec.model_files == load(llama, torch.bfloat16).spec.model_files


def test_what_a_classifier_reads_beside_it(bert: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(bert, tmp_path / "bert"))
    config(initializer_range=0.5)(other)
    json_of("tokenizer_config.json", lambda read: read.update(pad_token="<|endoftext|>"))(other)
    refused = verdict(load(bert).spec, load(other).spec)
    assert isinstance(refused, Refuse)
    assert [d.field for d in refused.fields] == [
        "config.json initializer_range",
        "tokenizer_config.json pad_token",
    ]


def test_a_chat_template_counts_where_both_use_one() -> None:
    plain, one, other = (RunSpec(model_hash="m", chat_template=text) for text in ("", "one", "other"))
    assert isinstance(verdict(plain, one), Keep)
    assert plain.fingerprint == one.fingerprint
    refused = verdict(one, other)
    assert isinstance(refused, Refuse)
    assert [d.field for d in refused.fields] == ["tokenizer_config.json chat_template"]


@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_every_family_says_the_same_of_itself_when_it_is_saved_again(tmp_path: Path, family: str) -> None:
    spec = RunSpec(labels=LABELS if family in CLASSIFIERS else ())
    first = save_tiny(family, tmp_path / "first")
    model = TrainableModel.load(first, torch.device("cpu"), torch.float32, spec)
    model.module.save_pretrained(tmp_path / "second")
    model.tokenizer.save_pretrained(tmp_path / "second")
    again = TrainableModel.load(tmp_path / "second", torch.device("cpu"), torch.float32, spec)
    assert again.spec.model_files == model.spec.model_files
    assert len(model.spec.canonical()) < 8_000
