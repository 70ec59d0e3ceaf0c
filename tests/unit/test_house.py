"""The conditions that conftest.py promises to every test."""

from __future__ import annotations

import asyncio

import torch
import uvloop


async def test_async_tests_run_on_the_daemons_kind_of_loop() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


def test_torch_computes_on_one_thread() -> None:
    assert torch.get_num_threads() == 1
