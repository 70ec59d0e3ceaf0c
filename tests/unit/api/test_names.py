"""What a program may rely on: it changes on purpose or not at all."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from decad import api

ROOT = Path(__file__).resolve().parents[3]
NAMES = [
    *("Batch", "BlockAdam", "Collate", "DecadError", "Evaluated", "Event", "Finished", "Indexed", "Listener"),
    *("Listening", "Loss", "Noticed", "OperatorError", "Peer", "PeerConfig", "PeerError", "PhaseBegun"),
    *("RunSpec", "StepTaken", "run", "tune_malloc"),
]


def public(kind: type) -> list[str]:
    """What ``kind`` itself offers, in the order of its source."""
    return [name for name in vars(kind) if not name.startswith("_")]


def test_the_names() -> None:
    assert api.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_guide_tells_of_every_name(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs/how-to/library.md").read_text(encoding="utf-8")


def test_the_members_of_a_peer() -> None:
    assert public(api.Peer) == ["run", "stop", "events", "address", "status", "module", "export"]


def test_the_members_of_the_optimiser() -> None:
    assert public(api.BlockAdam) == ["active", "step", "state_dict", "load_state_dict"]


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (api.Peer, "spec config module loss data held_out collate on_event"),
        (
            api.BlockAdam,
            "module lr betas eps weight_decay clip inner_steps warmup blocks freeze order seed",
        ),
        (api.run, "peer"),
        (api.tune_malloc, ""),
        (api.Listening, "address"),
        (api.PhaseBegun, "step round block name"),
        (api.StepTaken, "step loss mixed_with missing"),
        (api.Evaluated, "step loss accuracy"),
        (api.Noticed, "text"),
        (api.Finished, "step stopped"),
        (api.Batch, "inputs targets mask"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_arguments(call: object, arguments: str) -> None:
    assert callable(call)
    assert list(inspect.signature(call).parameters) == arguments.split()


@pytest.mark.parametrize("name", [name for name in NAMES if inspect.isclass(getattr(api, name))])
def test_every_class_is_explained(name: str) -> None:
    told = vars(getattr(api, name)).get("__doc__") or ""
    assert re.match(r"[A-Z].*\.", told), told


def test_importing_decad_alone_loads_nothing_of_it() -> None:
    look = "import decad, sys; print({'torch', 'grpc', 'pydantic', 'decad.api'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", look],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "set()\n"
