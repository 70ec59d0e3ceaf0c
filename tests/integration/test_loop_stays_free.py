"""What takes its time is never done on the event loop's thread, so that status, stop and the watchdog answer always."""

from __future__ import annotations

import re
import signal
from collections import Counter

import pytest
from support.daemon import Fleet

pytestmark = pytest.mark.timeout(120)

HEAVY = {
    "decad.data.local": ("load_data",),
    "decad.state.tensors": ("read_tensors", "serialise"),
    "decad.state.files": ("write_file", "hash_file"),
    "decad.state.checkpoint.CheckpointStore": ("load", "save"),
    "decad.model.trainable.TrainableModel": (
        *("load", "block", "set_block", "activate", "deactivate", "sync", "gradient", "evaluate"),
    ),
    "decad.daemon.phase.ActiveBlock": ("__init__", "half_step", "finish_step", "saved"),
}
"""Reads, writes, hashes, casts or computes a block, a model or a file of data."""

WATCHED = """
import functools, importlib, os, sys, threading
def watched(name, call):
    @functools.wraps(call)
    def instead(*arguments, **keywords):
        where = "beside" if threading.current_thread() is not threading.main_thread() else "ON"
        os.write(1, f"{{where}} the loop: {{name}}\\n".encode())
        return call(*arguments, **keywords)
    return instead
for path, names in {heavy}.items():
    module, _, kind = path.rpartition(".") if path[path.rindex(".") + 1].isupper() else (path, "", "")
    owner = importlib.import_module(module)
    owner = getattr(owner, kind) if kind else owner
    for name in names:
        plain = owner.__dict__[name]
        if isinstance(plain, classmethod):
            setattr(owner, name, classmethod(watched(name, plain.__func__)))
            continue
        instead = watched(name, plain)
        setattr(owner, name, instead)
        for other in [m for key, m in sys.modules.items() if key.startswith("decad.") and not kind]:
            if other.__dict__.get(name) is plain:
                setattr(other, name, instead)
"""


def test_from_the_start_through_a_restart_and_a_join_to_the_end(peers: Fleet) -> None:
    before = f"import decad.daemon.process\n{WATCHED.format(heavy=HEAVY)}"
    a = peers.start("a", "--min-peers", "1", before=before)
    b = peers.start("b", "--min-peers", "1", "--peers", a.address, before=before)
    b.until_step(20)
    b.signal(signal.SIGTERM)
    assert b.result().code == 0
    first = b.out
    a.until_step(a.status().progress.step)
    b = peers.start("b", "--peers", a.address, before=before)
    b.until_log(r"continuing at step \d+")
    b.until_step(a.status().progress.step + 10)
    for daemon in (a, b):
        daemon.signal(signal.SIGTERM)
    for daemon in (a, b):
        assert daemon.result().code == 0
    calls = Counter(re.findall(r"(beside|ON) the loop: (\w+)", first + a.out + b.out))
    assert {name for _, name in calls} == {name for names in HEAVY.values() for name in names}
    assert [name for where, name in calls if where == "ON"] == []
