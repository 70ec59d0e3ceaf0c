"""One place for each constant: what two modules need, one defines and the other imports."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from decad._proto import peer_pb2 as pb
from decad.api import BlockAdam
from decad.config import MAX_ADDRESS_CHARS, MAX_HOST_CHARS, RunSpec
from decad.core.coding import CHUNK_ELEMENTS
from decad.core.constants import AdamConstants
from decad.core.overlay import MOST_NEIGHBOURS
from decad.daemon import admission, fetch
from decad.membership.table import STALL_S, TICK_S
from decad.wire.grpc_options import MAX_ACCEPTED_LINKS
from decad.wire.memory import MemoryLink, MemoryNetwork, MemoryTransport

PACKAGE = Path(__file__).parents[2] / "decad"
OWN = {"FORMAT"}
"""Each kind of file counts the versions of its own format."""


def constants() -> Iterator[tuple[str, str, object]]:
    """(module, name without its underscore, value) of every literal that a module of decad gives a name."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign):
                target, value = node.targets[0], node.value
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                target, value = node.target, node.value
            else:
                continue
            if isinstance(target, ast.Name) and target.id.isupper() and _is_literal(value):
                yield path.stem, target.id.strip("_"), ast.unparse(value)


def _is_literal(value: ast.expr) -> bool:
    return not any(isinstance(node, ast.Name | ast.Call | ast.Attribute) for node in ast.walk(value))


def test_no_two_modules_define_one_constant() -> None:
    homes = defaultdict[tuple[str, object], set[str]](set)
    for module, name, value in constants():
        if name not in OWN:
            homes[name, value].add(module)
    assert {name: sorted(modules) for (name, _), modules in homes.items() if len(modules) > 1} == {}


def test_what_is_one_thing_is_one_constant() -> None:
    assert fetch.CHUNK_ELEMENTS is CHUNK_ELEMENTS["fp32"]
    assert TICK_S < STALL_S
    assert MAX_ACCEPTED_LINKS == 2 * MOST_NEIGHBOURS


def test_the_constants_of_adam_are_those_of_a_run_and_of_the_optimiser() -> None:
    spec, constants = RunSpec(), AdamConstants()
    assert (spec.beta1, spec.beta2, spec.eps) == (constants.a1, constants.a2, constants.eps)
    assert (spec.weight_decay, spec.clip) == (constants.weight_decay, constants.clip)
    assert BlockAdam.__init__.__kwdefaults__ is not None
    assert {name: getattr(spec, name) for name in BlockAdam.__init__.__kwdefaults__} == (
        BlockAdam.__init__.__kwdefaults__
    )


def test_who_hears_of_a_peer_takes_the_longest_address_that_a_hello_may_name() -> None:
    host = "n" * MAX_HOST_CHARS
    hello = pb.Hello(listen_host=host, listen_port=65535)
    address = admission._address_of(
        MemoryLink({}, MemoryTransport(MemoryNetwork(), "b"), "b:1", dialled=False), hello
    )
    assert address == f"{host}:65535"
    assert len(address) <= MAX_ADDRESS_CHARS
