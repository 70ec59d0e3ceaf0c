"""A model that trains in microseconds: each block is a small matrix that wants to be a matrix of its peer's own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from decad.config import RunSpec
from decad.core.batch import Examples, Score
from decad.core.blocks import Block, BlockPlan
from decad.model.trainable import TrainableModel

SHAPE = (4, 6)


class ByteTokenizer:
    """One token a byte."""

    eos_token_id = 0

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(text.encode())


class ToyModel(TrainableModel):
    """``blocks`` matrices that start at 0. Loss: half the mean squared distance to a target.

    The target of all peers together, which `evaluate` measures, is 1 everywhere; ``own`` is what this peer's data
    adds to it. Remembers the bytes of every value that each block ever had.
    """

    def __init__(self, blocks: int, own: float) -> None:  # nothing of a module's, so no super().__init__()
        names = [f"w{i}" for i in range(blocks)]
        self.plan = BlockPlan.build(
            [(f"block {i}", [name]) for i, name in enumerate(names)], dict.fromkeys(names, SHAPE)
        )
        self.model_hash = "toy"
        self.spec = RunSpec(model_hash="toy", plan_hash=self.plan.fingerprint)
        self.tokenizer = ByteTokenizer()
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.held: defaultdict[int, set[bytes]] = defaultdict(set)
        self.fetched: dict[int, bytes] = {}
        """Block -> its bytes when it was last set from outside."""
        self._blocks = [torch.zeros(block.numel) for block in self.plan.blocks]
        self.target = 1 + own * torch.linspace(-1, 1, self._blocks[0].numel())
        self._current: Block | None = None

    def asked(self, spec: RunSpec) -> ToyModel:
        """The model, for a run as ``spec`` says."""
        self.spec = spec.model_copy(update={"model_hash": "toy", "plan_hash": self.plan.fingerprint})
        return self

    @property
    def context_length(self) -> int:
        return 1 << 20

    @property
    def vocab_size(self) -> int:
        return 256

    @property
    def values(self) -> Tensor:
        """[blocks, n]"""
        return torch.stack(self._blocks)

    def activate(self, block: Block) -> Tensor:
        assert self._current is None
        self._current = block
        return self._blocks[block.index]

    def gradient(
        self, batch: Examples, interrupted: Callable[[], bool] = lambda: False
    ) -> tuple[float, Tensor]:
        assert self._current is not None
        apart = self._blocks[self._current.index] - self.target
        return float(apart.square().mean() / 2), apart

    def sync(self) -> None:
        assert self._current is not None
        self._remember(self._current.index)

    def deactivate(self, *, seed: int, step: int) -> None:
        assert self._current is not None
        self._remember(self._current.index)
        self._current = None

    def block(self, index: int) -> Tensor:
        return self._blocks[index].clone()

    def set_block(self, index: int, flat: Tensor) -> None:
        assert self._current is None or self._current.index != index
        self._blocks[index].copy_(flat)
        self.fetched[index] = self._remember(index)

    def evaluate(self, batch: Examples) -> Score:
        return Score(float((self.values - 1).square().mean() / 2), 1)

    def _remember(self, index: int) -> bytes:
        now = self._blocks[index].numpy().tobytes()
        self.held[index].add(now)
        return now
