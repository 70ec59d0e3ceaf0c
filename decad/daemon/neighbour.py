"""One link's side of the exchange: what is sent and received on it, and its figures for the status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from decad.core.coding import Decoder
from decad.daemon.meter import Meter
from decad.daemon.outbox import Outbox
from decad.daemon.step import StepExchange
from decad.wire.counters import ByteCounter


@dataclass
class IncomingMessage:
    """The message that a neighbour is sending now."""

    compute_s: float
    """What the neighbour says that its half-step took."""
    step: int
    updates: int
    chunks: int
    came: int = 0
    decoder: Decoder | None = None
    """None: of another phase, or a change to what we do not have. Its chunks are dropped."""
    into: StepExchange | None = None
    """The step that it is mixed into; None: it is only decoded."""

    @property
    def whole(self) -> bool:
        return self.came == self.chunks


@dataclass
class Neighbour:
    """Made when a link is ready."""

    name: str
    outbox: Outbox
    received: ByteCounter
    sent_meter: Meter
    received_meter: Meter
    ask: Callable[[int], None]
    message: IncomingMessage | None = None
    decoder: Decoder | None = None
    """Of the phase under way; made when its first message comes."""
    fault: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Fails with what the neighbour did that shows only in the step as a whole."""
    asked: bool = False
    """We asked for a full message, and none has begun since."""
    due: int = 0
    """Steps that counted on this neighbour's block."""
    late: int = 0
    """Those of them that went on without all of it."""
    absent: bool = False
    """It has brought nothing for so long that few steps count on it."""
    weight: float = 0.0
    """With which its block was mixed in the last step."""
    clipped: float = 0.0
    """Share of its distance that was not taken in the last step."""
    distance: float = -1.0
    """Between its block and ours, relative to ours; -1 until known."""
