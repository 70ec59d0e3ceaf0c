"""Checkpoint files in the safetensors format: written in a stream, read by the library (docs/adr/0016).

A checkpoint is written on the io thread beside the training, so its bytes go from the tensor's own memory to the
file, are hashed on the way, and errors of the disk keep their number. What is read is memory of its own, not a map of
the file: it is trained in place. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from decad.core.memory import bytes_of

DTYPES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The format's codes."""


def serialise(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, piece by piece; equal tensors give equal bytes.

    The tensors lie in host memory and must not change meanwhile.
    """
    # The widest elements first keep every tensor aligned to its own element size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in ordered:
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for _, tensor in ordered:
        yield bytes_of(tensor.detach().contiguous())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, each in memory of its own. Raises OSError, or SafetensorError if it is not one."""
    tensors: dict[str, Tensor] = load_file(path, backend="pread")
    return tensors
