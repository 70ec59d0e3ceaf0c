"""The base weights as they lie on disk: safetensors files, memory-mapped, read tensor by tensor."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from decad.errors import ModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class BaseWeights:
    """Every tensor of a Hugging Face directory, by name; nothing is read before it is asked for."""

    def __init__(self, directory: Path) -> None:
        """Open the files. Raises ModelError if there are none or one is damaged."""
        self._files: dict[str, Any] = {}
        for path in _weight_files(directory):
            try:
                opened: Any = safe_open(path, framework="pt", device="cpu")
            except (SafetensorError, OSError) as error:
                raise ModelError(
                    f"{path} is not a readable safetensors file ({error}). The download or copy may "
                    "have been cut short: compare its size with the source and copy it again."
                ) from None
            self._files.update(dict.fromkeys(opened.keys(), opened))

    @property
    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """The tensor in its dtype on disk, backed by the mapped file: never write to it."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def sha256(self) -> str:
        """Hash (hex) over sorted names, shapes, dtypes and bytes; the split into files does not matter."""
        digest = hashlib.sha256()
        for name in self.names:
            dtype = self._files[name].get_slice(name).get_dtype()
            digest.update(json.dumps([name, dtype, self.shape(name)]).encode() + b"\n")
            digest.update(self.tensor(name).reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _weight_files(directory: Path) -> list[Path]:
    if (directory / SINGLE_FILE).is_file():
        return [directory / SINGLE_FILE]
    index = directory / INDEX_FILE
    if not index.is_file():
        raise ModelError(
            f"{directory} holds no safetensors weights (neither {SINGLE_FILE} nor {INDEX_FILE}). Download "
            "the model's safetensors files, or convert it with `decad model import` or save_pretrained."
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} is not a readable weight index ({error}). Copy it again.") from None
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ModelError(
            f"{directory} lacks {', '.join(missing)}, which {INDEX_FILE} lists. Download the missing files."
        )
    return [directory / name for name in names]
