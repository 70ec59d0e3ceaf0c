"""Which device and load dtype a machine trains with."""

from __future__ import annotations

import torch

from decad.errors import ConfigError


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
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
