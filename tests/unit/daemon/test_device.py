from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from decad.daemon import device as machine
from decad.daemon.device import available_memory, is_emulated

CPU = torch.device("cpu")


def _limit(folder: Path, limit: str) -> None:
    (folder / "memory.max").write_text(limit)
    (folder / "memory.current").write_text("700\n")
    (folder / "memory.stat").write_text("anon 500\ninactive_file 150\nactive_file 50\n")


def test_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    _limit(tmp_path, "1000\n")
    assert available_memory(CPU) == 1000 - 700 + 150


def test_without_a_limit_it_is_that_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    _limit(tmp_path, "max\n")
    assert available_memory(CPU) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_float32_is_never_emulated() -> None:
    assert not is_emulated(torch.float32, CPU)
    assert not is_emulated(torch.bfloat16, torch.device("cuda"))
