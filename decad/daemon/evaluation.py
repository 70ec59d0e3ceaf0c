"""How well this peer's model does on the part of its data that it is never trained on."""

from __future__ import annotations

import asyncio
import logging
import math
from functools import reduce

from decad.config import PeerConfig
from decad.core.batch import Score
from decad.daemon.compute import ComputeThread
from decad.daemon.events import Evaluated
from decad.daemon.interrupt import unless_set
from decad.daemon.progress import A_RATE_THAT_FITS, Activity, Progress
from decad.data.source import Source
from decad.model.trainable import TrainableModel

WORSE = 0.05
"""Nats by which two evaluations of the same data do not differ by chance."""

log = logging.getLogger("decad")


class Evaluation:
    """Writes what it finds into ``progress``; given up, without a result, once ``stopping`` is set."""

    def __init__(
        self,
        config: PeerConfig,
        model: TrainableModel,
        data: Source,
        compute: ComputeThread,
        progress: Progress,
        stopping: asyncio.Event,
    ) -> None:
        self._config, self._model, self._data = config, model, data
        self._compute, self._progress, self._stopping = compute, progress, stopping

    async def run(self) -> None:
        """Evaluate the model as it is, once a step."""
        progress = self._progress
        if progress.step == progress.held_out_step and not math.isnan(progress.held_out_loss):
            return
        progress.activity = Activity.EVALUATING
        batches = self._data.held_out_batches(self._config.batch_size, self._config.eval_batches)

        def evaluate() -> Score | None:
            batch = next(batches, None)
            return None if batch is None else self._model.evaluate(batch)

        scores = []
        while (score := await unless_set(self._stopping, self._compute.run(evaluate))) is not None:
            scores.append(score)
            progress.work += 1
        if self._stopping.is_set() or not scores or not (whole := reduce(Score.plus, scores)).predictions:
            return
        progress.held_out_loss, progress.held_out_step = whole.mean, progress.step
        if math.isnan(progress.first_held_out_loss):
            progress.first_held_out_loss = whole.mean
        elif whole.mean > progress.first_held_out_loss + WORSE:
            progress.notice(
                "The held-out loss is higher than before the training: the learning rate is too high, or there is too "
                f"little data for so many steps. {A_RATE_THAT_FITS}"
            )
        accuracy = "" if whole.accuracy is None else f", accuracy {whole.accuracy:.1%}"
        progress.tell(Evaluated(progress.step, whole.mean, whole.accuracy))
        log.info("step %d: held-out loss %.4f%s", progress.step, whole.mean, accuracy)
