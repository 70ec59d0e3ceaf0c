"""What every test runs in: one thread of torch, the daemon's event loop, and no task left behind."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import torch
import uvloop
from hypothesis import settings
from support.fixtures import nursery, peers, texts, tiny, wide

__all__ = ["nursery", "peers", "texts", "tiny", "wide"]

# A busy machine is no failure; and a red CI must be red again when it is run again.
settings.register_profile("decad", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("decad")

LAST_TURNS_S = 0.1
"""How long a task may take to end after its test, in seconds: transports close in a few turns of the loop."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The session's one loop (pyproject.toml, docs/adr/0003) is uvloop's, as in the daemon."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    # Sums depend on the number of threads, and the machines that run this are small.
    torch.set_num_threads(1)


@pytest.fixture
async def _tasks_end_with_the_test() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=LAST_TURNS_S)
    for task in left:
        task.cancel()
    if left:
        pytest.fail(f"tasks outlived the test: {', '.join(sorted(map(repr, left)))}")


@pytest.fixture(autouse=True)
def no_task_left_behind(request: pytest.FixtureRequest) -> None:
    """An async test fails if a task that it started is still there after its fixtures are gone."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_tasks_end_with_the_test")
