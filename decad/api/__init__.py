"""decad as a library: a peer inside one's own program, and block-wise Adam alone (docs/how-to/library.md).

`import decad` alone loads none of this; torch takes seconds.
"""

from decad.api.block_adam import BlockAdam
from decad.api.own import Collate, Indexed, Loss
from decad.api.peer import Peer, run
from decad.config import PeerConfig, RunSpec
from decad.core.batch import Batch
from decad.daemon.events import (
    Evaluated,
    Event,
    Finished,
    Listener,
    Listening,
    Noticed,
    PhaseBegun,
    StepTaken,
)
from decad.errors import DecadError, OperatorError, PeerError
from decad.wire.malloc import tune_malloc

__all__ = [
    "Batch",
    "BlockAdam",
    "Collate",
    "DecadError",
    "Evaluated",
    "Event",
    "Finished",
    "Indexed",
    "Listener",
    "Listening",
    "Loss",
    "Noticed",
    "OperatorError",
    "Peer",
    "PeerConfig",
    "PeerError",
    "PhaseBegun",
    "RunSpec",
    "StepTaken",
    "run",
    "tune_malloc",
]
