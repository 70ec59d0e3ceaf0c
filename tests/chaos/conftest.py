"""What the tests of faults share: machines on a network, and the row that each test records."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.daemon import fleet
from support.fault_table import Row
from support.netns import Namespaces
from support.nursery import Nursery
from support.swarm import MakeSwarm, Swarm


@pytest.fixture
def injections() -> int:
    """How often a test does its harm: `make chaos` says more than once."""
    return int(os.environ.get("DECAD_CHAOS_INJECTIONS", "1"))


@pytest.fixture
def row(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[Row]:
    """What is printed of this test: named after the first line of its docstring, with its parameters filled in."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    title = (inspect.getdoc(request.function) or "").splitlines()[0].rstrip(".").format(**parameters)
    row = Row(title)
    yield row
    record_property("fault", row.as_dict())


@pytest.fixture
def swarm(nursery: Nursery, tmp_path: Path, tiny: Path, texts: Path) -> Iterator[MakeSwarm]:
    """``swarm("abc", pace=..., model=...)``: daemons on machines of their own, killed with the test."""
    with ExitStack() as stack:

        def make(names: str, *, pace: float = 0.05, model: Path = tiny) -> Swarm:
            net = stack.enter_context(Namespaces(len(names)))
            return Swarm(stack.enter_context(fleet(nursery, tmp_path, model, texts)), net, names, pace)

        yield make
