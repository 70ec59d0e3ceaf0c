"""Writing a Hugging Face directory: whole or not at all, in shards of bounded size."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from decad.errors import OperatorError
from decad.model.weights import INDEX_FILE, SINGLE_FILE

SHARD_BYTES = 2 << 30
"""A shard is closed once it holds this much, so writing needs memory for one shard, not for the model."""


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A directory beside ``out`` to write into; renamed to ``out`` on success, removed on failure.

    Raises OperatorError if ``out`` exists and is not an empty directory, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OperatorError(f"{out} exists and is not empty. Choose another directory, or remove it first.")
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        try:
            yield partial
            if out.exists():
                out.rmdir()
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise OperatorError(
            f"{out} cannot be written: {error.strerror or error}. Check space and rights."
        ) from error


def write_weights(directory: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write named tensors (host) as safetensors: one file, or shards of `SHARD_BYTES` with an index."""
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    total = 0

    def close_shard() -> None:
        file = _shard(directory, len(shards))
        save_file(pending, file, metadata={"format": "pt"})
        file.chmod(directory.stat().st_mode & 0o666)  # safetensors leaves it readable for the owner alone
        shards.append(list(pending))
        pending.clear()

    for name, tensor in tensors:
        pending[name] = tensor.contiguous()
        total += tensor.nbytes
        if sum(t.nbytes for t in pending.values()) >= SHARD_BYTES:
            close_shard()
    if pending:
        close_shard()
    if len(shards) == 1:
        _shard(directory, 0).rename(directory / SINGLE_FILE)
        return
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for index, name in enumerate(names):
        _shard(directory, index).rename(directory / name)
    weight_map = {tensor: names[i] for i, shard in enumerate(shards) for tensor in shard}
    index_text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    (directory / INDEX_FILE).write_text(index_text + "\n", encoding="utf-8")


def write_config(directory: Path, config: dict[str, object]) -> None:
    """Write config.json without a quantization_config: the weights beside it are plain."""
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    (directory / "config.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def _shard(directory: Path, index: int) -> Path:
    return directory / f"shard-{index}.safetensors"
