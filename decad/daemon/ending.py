"""When a run is over: as its schedule says, or as an operator had it end; and for this peer perhaps before."""

from __future__ import annotations

import logging
import math

from decad._proto.control_pb2 import SettleReply
from decad.core.schedule import last_step
from decad.daemon.context import PeerContext
from decad.daemon.evaluation import Evaluation
from decad.daemon.network import Network
from decad.daemon.replica import Replica
from decad.errors import StateError
from decad.wire.numbers import as_uint64

log = logging.getLogger("decad")

NOTICE_S = 5.0
"""How long before the end all are told of it; and a step for each peer, since each passes it on."""


class Ending:
    """Of one peer's training."""

    def __init__(self, context: PeerContext, network: Network, replica: Replica) -> None:
        self._context, self._network, self._replica = context, network, replica
        self._progress = context.progress

    @property
    def last(self) -> int:
        """The step before which this peer is done; 0: never."""
        return last_step(self._context.config.steps, self._replica.schedule)

    @property
    def reached(self) -> bool:
        return 0 < self.last <= self._progress.step

    def settle(self) -> SettleReply:
        """Have the training of all peers end soon, unless it does; returns when. Raises StateError."""
        spec, progress, schedule = self._context.run.spec, self._progress, self._replica.schedule
        if not spec.settle:
            raise StateError("This run was begun with --settle 0: its peers never come to one model.")
        members = self._network.neighbourhood.ready + 1
        notice = math.ceil(NOTICE_S / progress.step_s) if progress.step_s else 0
        soon = progress.step + max(members, notice)
        if not self._network.end and (not schedule.over or soon < schedule.end):
            self._network.bring_forward(soon)
        coming = spec.calendar(len(self._context.plan), self._network.end)
        left = max(0, coming.end - progress.step) * progress.step_s
        left += (coming.over - max(coming.end, progress.step)) * progress.exchange_s
        return SettleReply(
            step=as_uint64(progress.step),
            end=as_uint64(coming.end),
            over=as_uint64(coming.over),
            eta_s=left if progress.step_s else -1.0,
        )

    async def take(self) -> None:
        """What an operator, here or elsewhere, said of the end since the last time."""
        schedule = self._context.run.spec.calendar(len(self._context.plan), self._network.end)
        if schedule != self._replica.schedule:
            await self._replica.reschedule(schedule)
            log.info(
                "the training ends before step %d, and the run before step %d", schedule.end, schedule.over
            )

    async def evaluate(self, evaluation: Evaluation) -> None:
        """Look at the model that came of it all, and say what settling did."""
        progress, schedule = self._progress, self._replica.schedule
        settled = schedule.over and progress.step == schedule.over and progress.held_out_step == schedule.end
        was = progress.held_out_loss if settled else math.nan
        await evaluation.run()
        if not math.isnan(was):
            log.info("settled: held-out loss %.4f, and %.4f before", progress.held_out_loss, was)
