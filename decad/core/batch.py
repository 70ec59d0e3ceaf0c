"""What one step trains on: examples of one length, and what is to be predicted in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

IGNORED = -100
"""A target that is none: torch's own default for cross entropy."""


class Examples(Protocol):
    """What the training needs of a batch, whatever is in it."""

    @property
    def predictions(self) -> int:
        """What the mean loss is the mean of."""
        ...

    @property
    def tokens(self) -> int:
        """What the speed is told in."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same on ``device``."""
        ...

    def split(self, size: int) -> Sequence[Self]:
        """In parts of at most ``size`` examples; 0: as it is."""
        ...


class Batch(NamedTuple):
    """Some examples. A language model predicts a token at each place, a classifier one class."""

    inputs: Tensor
    """Token ids, int64 [b, s]; shorter examples are filled up at the right."""
    targets: Tensor
    """int64: [b, s], the token that follows each place, or `IGNORED`; or [b], the class of each example."""
    mask: Tensor | None = None
    """bool [b, s], False where an example is filled up; None where none is."""

    @classmethod
    def next_token(cls, sequences: Tensor) -> Batch:
        """Every token of ``sequences``, int64 [b, s + 1], but the first is to be predicted.

        The last one predicts nothing, and no earlier place sees it: it is not read.
        """
        return cls(sequences[:, :-1], sequences[:, 1:])

    @property
    def predictions(self) -> int:
        """Targets that count."""
        return int((self.targets != IGNORED).sum())

    @property
    def tokens(self) -> int:
        """Tokens that are read, without the filling."""
        return self.inputs.numel() if self.mask is None else int(self.mask.sum())

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``."""
        mask = None if self.mask is None else self.mask.to(device)
        return Batch(self.inputs.to(device), self.targets.to(device), mask)

    def split(self, size: int) -> list[Batch]:
        """In parts of at most ``size`` examples; 0: as it is."""
        if not size or size >= self.inputs.shape[0]:
            return [self]
        inputs, targets = torch.split(self.inputs, size), torch.split(self.targets, size)
        masks = [None] * len(inputs) if self.mask is None else torch.split(self.mask, size)
        return [Batch(*part) for part in zip(inputs, targets, masks, strict=True)]


class Score(NamedTuple):
    """How well a model does on some examples."""

    loss: float
    """Sum of the cross entropy over all predictions, nats."""
    predictions: int
    correct: int | None = None
    """Predictions whose likeliest class is the right one; None for language models, where nobody asks."""

    @property
    def mean(self) -> float:
        """Nats a prediction."""
        return self.loss / self.predictions

    @property
    def accuracy(self) -> float | None:
        return None if self.correct is None else self.correct / self.predictions

    def plus(self, other: Score) -> Score:
        """Of both together."""
        if not (self.predictions and other.predictions):
            return self if self.predictions else other
        both = None if self.correct is None or other.correct is None else self.correct + other.correct
        return Score(self.loss + other.loss, self.predictions + other.predictions, both)
