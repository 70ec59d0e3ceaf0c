"""The safetensors format, written and read in a stream: no second copy of a tensor, no memory map.

A checkpoint is written on the io thread beside the training, so its bytes go from the tensor's own memory to
the file and are hashed on the way; the library builds the file in memory first. What it reads must be
ordinary memory, since it is trained in place. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
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
_DTYPES_BY_CODE = {code: dtype for dtype, code in DTYPES.items()}


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
    """The tensors of a file that `serialise` gave and whose hash was checked, in memory of their own."""
    tensors = {}
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        for name, entry in json.loads(file.read(length)).items():
            tensor = torch.empty(entry["shape"], dtype=_DTYPES_BY_CODE[entry["dtype"]])
            file.readinto(bytes_of(tensor))
            tensors[name] = tensor
    return tensors
