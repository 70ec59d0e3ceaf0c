"""A program's own module, loss and data, as the training wants them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from decad.config import PeerConfig, RunSpec
from decad.core.batch import Batch, Examples, Score
from decad.core.memory import bytes_of
from decad.data.order import visited
from decad.data.position import DataPosition
from decad.errors import ConfigError, DataError
from decad.model.dtypes import DTYPES
from decad.model.patterns import matches
from decad.model.trainable import TrainableModel

Loss = Callable[[nn.Module, Any], Tensor]
"""(the module, a batch on its device) -> the mean loss over the batch's examples: a scalar with its graph."""

Collate = Callable[[list[Any]], Any]
"""Some examples -> a batch of them."""


@runtime_checkable
class Indexed(Protocol):
    """Examples with a number each: a list, or a map-style dataset of torch or of the ``datasets`` library."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


# -- batches and losses -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnBatch:
    """A batch of a program's own: a tensor, or tuples, lists and mappings of them, examples along dimension 0."""

    value: Any

    @property
    def predictions(self) -> int:
        """Examples."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        _each(self.value, note)
        return found[0].shape[0] if found and found[0].dim() else 1

    @property
    def tokens(self) -> int:
        """Examples, too."""
        return self.predictions

    def to(self, device: torch.device) -> OwnBatch:
        return OwnBatch(_each(self.value, lambda tensor: tensor.to(device)))

    def split(self, size: int) -> list[OwnBatch]:
        count = self.predictions
        if not size or size >= count:
            return [self]
        return [self._part(slice(start, start + size)) for start in range(0, count, size)]

    def _part(self, examples: slice) -> OwnBatch:
        return OwnBatch(_each(self.value, lambda tensor: tensor[examples]))


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _each(part, change) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_each(part, change) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(_each(part, change) for part in value)
    return value


class OwnLoss:
    """An objective made of a function."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        self._module, self._loss = module, loss

    def loss(self, batch: Batch | OwnBatch) -> Tensor:
        return self._loss(self._module, batch.value if isinstance(batch, OwnBatch) else batch)

    @torch.no_grad()
    def score(self, batch: Batch | OwnBatch) -> Score:
        return Score(self.loss(batch).item() * batch.predictions, batch.predictions)


# -- data ---------------------------------------------------------------------------------------------------------


class OwnData:
    """Batches of a program's data, and of what it keeps aside to evaluate on.

    Examples that have numbers are taken in an order that is a pure function of ``seed`` and epoch, each once an epoch,
    so that a peer that is started again goes on with the next. Of an iterable, each item is a batch as it is: a peer
    that is started again begins it anew, as it does at its end.
    """

    def __init__(
        self,
        data: Indexed | Iterable[Any],
        held_out: Indexed | Iterable[Any],
        collate: Collate,
        wrap: Callable[[Any], Examples],
        seed: int,
    ) -> None:
        self._examples = _numbered(data)
        if self._examples is not None and not len(self._examples):
            raise DataError("There is nothing to train on: the length of data is 0.")
        self._data, self._held_out, self._collate = data, held_out, collate
        self._wrap, self._seed = wrap, seed
        self._stream: Iterator[Any] = iter(())

    def batch(self, position: DataPosition, batch_size: int) -> tuple[Examples, DataPosition]:
        if self._examples is None:
            return self._wrap(self._next()), DataPosition(position.consumed + 1)
        count, end = len(self._examples), position.consumed + batch_size
        drawn = [self._examples[int(i)] for i in visited(self._seed, count, position.consumed, end)]
        return self._wrap(self._collate(drawn)), DataPosition(end)

    def held_out_batches(self, batch_size: int, limit: int) -> Iterator[Examples]:
        if (examples := _numbered(self._held_out)) is None:
            yield from map(self._wrap, islice(iter(self._held_out), limit))
            return
        count = len(examples)
        for start in range(0, min(count, limit * batch_size), batch_size):
            yield self._wrap(
                self._collate([examples[i] for i in range(start, min(start + batch_size, count))])
            )

    def _next(self) -> Any:
        for _ in range(2):
            for batch in self._stream:
                return batch
            self._stream = iter(self._data)
        raise DataError(
            "The data has come to its end and cannot be begun again. Give something that can be iterated over many "
            "times, such as a DataLoader, rather than an iterator."
        )


def token_batch(value: Any) -> Batch:
    """A batch for a model that has an objective already. Raises DataError if it is none."""
    if not isinstance(value, Batch):
        raise DataError(
            f"A {type(value).__name__} came as a batch, and without a loss of one's own a model is trained on "
            "decad.api.Batch. Make one of each, in collate if data has examples with numbers, or give a loss."
        )
    return value


def _numbered(data: Indexed | Iterable[Any]) -> Indexed | None:
    """``data``, if its examples have numbers."""
    # An IterableDataset inherits a __getitem__ that only raises.
    return data if isinstance(data, Indexed) and not isinstance(data, IterableDataset) else None


# -- models -------------------------------------------------------------------------------------------------------


def own_model(
    module: nn.Module, loss: Loss, spec: RunSpec, config: PeerConfig, device: torch.device
) -> TrainableModel:
    """``module``, to be trained in place. Raises ConfigError.

    It is put into evaluation mode, since dropout would make a resumed run another run, and moved to ``device``.
    """
    if config.dtype != "auto":
        module.to(DTYPES[config.dtype])
    if {parameter.dtype for parameter in module.parameters()} not in [{dtype} for dtype in DTYPES.values()]:
        raise ConfigError(
            "A module is trained in float32 or in bfloat16, all of it. Convert it with its `to`, or set dtype in the "
            "PeerConfig."
        )
    frozen = [
        name
        for name, parameter in module.named_parameters()
        if not parameter.requires_grad and not any(matches(pattern, name) for pattern in spec.freeze)
    ]
    measured = {"model_hash": fingerprint(module), "freeze": (*spec.freeze, *frozen)}
    module.train(False)
    module.requires_grad_(False)
    return TrainableModel(
        module, spec.model_copy(update=measured), OwnLoss(module, loss), None, device, config.micro_batch
    )


def fingerprint(module: nn.Module) -> str:
    """SHA-256 (hex) over the sorted names, shapes, dtypes and values of the module's state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        digest.update(bytes_of(tensor.detach().cpu().contiguous()))
    return digest.hexdigest()
