"""The gradients of this peer's private data: where the data is read, and what its examples have given away."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from decad.config import PeerConfig
from decad.core.privacy import epsilon
from decad.daemon.loading import Loaded
from decad.data.local import LocalData
from decad.data.position import DataPosition
from decad.errors import ConfigError


class Trained(NamedTuple):
    """What one batch gave."""

    loss: float
    """Mean over the predictions."""
    gradient: list[Tensor]
    """One, fp32 [n], until it is used up."""
    tokens: int
    following: DataPosition
    """Where the data goes on."""


class Batches:
    """``position``: where the next batch is read; it moves when a step with the batch is complete."""

    def __init__(self, config: PeerConfig, loaded: Loaded, interrupted: Callable[[], bool]) -> None:
        """A gradient is given up once ``interrupted``. Raises ConfigError."""
        self._config, self._model, self._data = config, loaded.model, loaded.data
        self._interrupted = interrupted
        self.position = loaded.position
        if config.dp_noise and (loaded.model.privacy is None or not isinstance(loaded.data, LocalData)):
            raise ConfigError(
                "dp_noise protects data and models that decad loads itself, not a program's own."
            )

    def gradient(self) -> Trained:
        """Of the next batch; on the compute thread."""
        batch, following = self._data.batch(self.position, self._config.batch_size)
        loss, gradient = self._model.gradient(batch, self._interrupted)
        return Trained(loss, [gradient], batch.tokens, following)

    @property
    def epsilon(self) -> float:
        """What the examples have given away so far, where they are protected; -1 elsewhere."""
        if not self._config.dp_noise or not isinstance(self._data, LocalData):
            return -1.0
        return epsilon(self._config.dp_noise, -(-self.position.consumed // self._data.train_sequences))
