"""What the parts of one running peer share."""

from __future__ import annotations

from dataclasses import dataclass, field

from decad.config import PeerConfig, RunSpec
from decad.core.blocks import BlockPlan
from decad.daemon.gate import Gate
from decad.daemon.progress import Progress
from decad.membership.identity import Identity
from decad.trust.protection import Protection
from decad.wire.counters import Traffic


@dataclass
class RunSettings:
    """The run spec as it stands: it may still be adopted from a peer until ``frozen``."""

    spec: RunSpec
    set_fields: frozenset[str]
    """Fields that an operator set, here or at the peer that the spec was adopted from."""
    frozen: bool = False


@dataclass(frozen=True)
class PeerContext:
    """Who this peer is, its settings, and its live figures; made once its model and data are loaded."""

    identity: Identity
    config: PeerConfig
    protection: Protection
    gate: Gate
    listen: str
    """host:port on which peers may connect, as it was set; port 0 picks one."""
    run: RunSettings
    plan: BlockPlan
    kept: BlockPlan
    """The plan, and after its blocks the adapters, if there are any: what joiners are given."""
    progress: Progress
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def peer_id(self) -> str:
        """64 hex characters."""
        return self.identity.peer_id
