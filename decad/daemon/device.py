"""Which device and load dtype a machine trains with, and how much memory it has."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import torch

from decad.errors import ConfigError
from decad.model.dtypes import DTYPES

CGROUP = Path("/sys/fs/cgroup")
"""Of this process, where it runs in a container."""


def choose_device(name: str) -> torch.device:
    """auto | cpu | cuda | cuda:N | mps -> device. Raises ConfigError when it is not there."""
    if name == "auto":
        present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        name = next(kind for kind, there in present.items() if there)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name} is not known. Use auto, cpu, cuda, cuda:N or mps.") from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise ConfigError(
            f"--device {name} is not there on this machine, or this torch cannot use it. Try --device cpu."
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto | float32 | bfloat16 -> load dtype; auto is bfloat16 on cuda alone."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return DTYPES[name]


def is_emulated(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether matrices in ``dtype`` are multiplied by a fallback that is many times slower than float32."""
    return (
        device.type == "cpu" and dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def available_memory(device: torch.device) -> int:
    """Bytes that a process may still take on ``device``; of the host, within the limit of its container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = psutil.virtual_memory().available
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        # What is only cached goes when it is needed.
        cached = re.search(r"^inactive_file (\d+)$", (CGROUP / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # no limit, or no control groups
        return free
    return min(free, limit - used + (int(cached[1]) if cached else 0))
