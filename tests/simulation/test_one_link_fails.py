"""Whatever goes wrong on one link, or in what is told of it, the daemon and the other links go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cluster import Cluster, simulated
from support.virtual import PROCESS

from decad.daemon.admission import Admission
from decad.daemon.network import Network
from decad.daemon.session import Session
from decad.wire.memory import MemoryTransport

BUGS = {
    "in the dial": (MemoryTransport, "dial"),
    "in the handshake": (Admission, "admit"),
    "before the session": (Network, "link_up"),
    "in the session": (Session, "run"),
    "at the session's end": (Network, "link_down"),
}


@pytest.mark.parametrize("place", BUGS)
@pytest.mark.parametrize("name", ["b", "a"], ids=["dialled", "accepted"])
@simulated
async def test_an_exception_of_one_link_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str
) -> None:
    """A bug that shows once, at one end of one link: it is told, and the peers find together."""
    owner, method = BUGS[place]
    sound, met = getattr(owner, method), list[str]()

    async with Cluster(tmp_path) as cluster:

        def buggy(self: object, *args: object, **kwargs: object) -> object:
            if not met and task_of(name, cluster):
                met.append(place)
                raise OverflowError("a bug")
            return sound(self, *args, **kwargs)

        cluster.start("a")
        await cluster.further(2)
        monkeypatch.setattr(owner, method, buggy)
        cluster.start("b", min_peers=1)
        if (place, name) == ("in the dial", "a"):
            cluster["a"].peer.network.dials.add("10.0.0.2:7700", "exchange", 0.0)
        if place == "at the session's end":
            await cluster.further(2)
            cluster.cut({"a"}, {"b"})
        await cluster.until(lambda: met, "the bug shows")
        cluster.heal({"a"}, {"b"})
        await cluster.told(name, "internal error: OverflowError: a bug")
        before = {m: len(m.peer.steps) for m in cluster.running}
        await cluster.until(
            lambda: all(m.peer.steps[n:] and m.peer.steps[-1].weights for m, n in before.items()),
            "both mix with each other",
        )


def task_of(name: str, cluster: Cluster) -> bool:
    """Whether the peer of this machine is running now."""
    return name in cluster.machines and PROCESS.get() is cluster[name].process
