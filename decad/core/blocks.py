"""The block plan: every trainable parameter in exactly one block.

A block is trained, mixed and sent as one flat fp32 vector; a *slot* is where one parameter lies in it.
DECA section 3 (arXiv 2606.03209) partitions theta into B disjoint blocks; this module is that partition.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from decad.errors import InternalError


@dataclass(frozen=True)
class Slot:
    """Where one parameter lies in its block's flat vector. ``offset`` and ``numel`` count elements."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @cached_property
    def numel(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def rows(self) -> int:
        """Rows of the second moment's row means: all but the last index; 1 for vectors and scalars."""
        return math.prod(self.shape[:-1]) if len(self.shape) > 1 else 1


@dataclass(frozen=True)
class Block:
    """One block: its place in the plan, a name for people, and its slots without gaps between them."""

    index: int
    name: str
    slots: tuple[Slot, ...]

    @cached_property
    def numel(self) -> int:
        return sum(slot.numel for slot in self.slots)

    @cached_property
    def rows(self) -> int:
        return sum(slot.rows for slot in self.slots)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Name -> view of ``flat`` [numel] in the parameter's shape; no copy."""
        return {s.name: flat[s.offset : s.offset + s.numel].view(s.shape) for s in self.slots}

    def row_means(self, flat: Tensor) -> Tensor:
        """Mean over the last index of every slot (the whole mean for vectors): [numel] -> [rows]."""
        return torch.cat([self._by_row(flat, s).mean(dim=1) for s in self.slots])

    def by_rows(self, flat: Tensor, rows: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """Pairs, one a slot: a view [r, c] of ``flat`` and the view [r, 1] of ``rows`` that belongs to it."""
        start = 0
        for slot in self.slots:
            yield self._by_row(flat, slot), rows[start : start + slot.rows].unsqueeze(1)
            start += slot.rows

    @staticmethod
    def _by_row(flat: Tensor, slot: Slot) -> Tensor:
        return flat[slot.offset : slot.offset + slot.numel].view(slot.rows, -1)


@dataclass(frozen=True)
class BlockPlan:
    """All blocks of a model, in the model's own order (input side first)."""

    blocks: tuple[Block, ...]

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> Block:
        return self.blocks[index]

    @cached_property
    def numel(self) -> int:
        return sum(block.numel for block in self.blocks)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over names and shapes: equal plans, equal fingerprints, on every machine."""
        plan = [[b.name, [[s.name, list(s.shape)] for s in b.slots]] for b in self.blocks]
        return hashlib.sha256(json.dumps(plan, separators=(",", ":")).encode()).hexdigest()

    @classmethod
    def build(
        cls, groups: Sequence[tuple[str, Sequence[str]]], shapes: Mapping[str, Sequence[int]]
    ) -> BlockPlan:
        """Lay out named groups of parameters.

        ``groups``: (block name, parameter names) in model order; ``shapes``: every trainable parameter.
        Raises InternalError when a parameter is in no block or in more than one.
        """
        blocks = []
        for index, (name, members) in enumerate(groups):
            slots: list[Slot] = []
            offset = 0
            for member in members:
                slots.append(Slot(member, tuple(shapes[member]), offset))
                offset += slots[-1].numel
            blocks.append(Block(index, name, tuple(slots)))
        covered = [slot.name for block in blocks for slot in block.slots]
        if sorted(covered) != sorted(shapes):
            missing = sorted(set(shapes) - set(covered))
            twice = sorted({name for name in covered if covered.count(name) > 1})
            raise InternalError(f"block plan: parameters in no block: {missing}; in several: {twice}")
        return cls(tuple(blocks))
