"""The conditions that conftest.py promises to every test, and those that every module keeps."""

from __future__ import annotations

import asyncio
from pathlib import Path

import torch
import uvloop

import decad

LONGEST = 350
"""Lines of a module: more hold more than one concept."""


async def test_async_tests_run_on_the_daemons_kind_of_loop() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


def test_torch_computes_on_one_thread() -> None:
    assert torch.get_num_threads() == 1


def test_no_module_is_too_long() -> None:
    package = Path(decad.__file__).parent
    lengths = {
        str(path.relative_to(package)): len(path.read_text(encoding="utf-8").splitlines())
        for path in package.rglob("*.py")
        if "_proto" not in path.parts
    }
    assert len(lengths) > 100
    assert {path: length for path, length in lengths.items() if length > LONGEST} == {}
