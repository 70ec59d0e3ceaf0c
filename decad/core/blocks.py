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
from typing import NamedTuple

import torch
from torch import Tensor

from decad.errors import InternalError


@dataclass(frozen=True)
class Slot:
    """Where one parameter, or some rows of it, lies in its block's flat vector. ``offset`` and ``numel`` count
    elements."""

    name: str
    shape: tuple[int, ...]
    """Of what lies here."""
    offset: int
    first_row: int = 0
    """Of the parameter; above 0 where a block before this one has the rows before."""

    @cached_property
    def numel(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def rows(self) -> int:
        """Rows of the second moment's row means: all but the last index; 1 for vectors and scalars."""
        return math.prod(self.shape[:-1]) if len(self.shape) > 1 else 1

    def part_of(self, whole: Tensor) -> Tensor:
        """View of what lies here of the parameter, or of its gradient, ``whole``."""
        return whole[self.first_row : self.first_row + self.shape[0]] if self.shape else whole


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
        """Parameter's name -> view of ``flat`` [numel] in the slot's shape; no copy."""
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
        plan = [[b.name, [[s.name, list(s.shape), s.first_row] for s in b.slots]] for b in self.blocks]
        return hashlib.sha256(json.dumps(plan, separators=(",", ":")).encode()).hexdigest()

    @classmethod
    def build(
        cls, groups: Sequence[tuple[str, Sequence[str | Rows]]], shapes: Mapping[str, Sequence[int]]
    ) -> BlockPlan:
        """Lay out named groups of parameters.

        ``groups``: (block name, parameters or rows of them) in model order; ``shapes``: every trainable parameter.
        A parameter whose rows are divided lies at the end of one block and goes on at the beginning of the next, so
        that it can be one tensor in memory. Raises InternalError when a row is in no block, in more than one, or
        out of order.
        """
        blocks = []
        for index, (name, members) in enumerate(groups):
            slots: list[Slot] = []
            offset = 0
            for member in members:
                part = member if isinstance(member, Rows) else Rows(member, 0, _length(shapes[member]))
                shape = tuple(shapes[part.name])
                if shape:
                    shape = (part.stop - part.start, *shape[1:])
                slots.append(Slot(part.name, shape, offset, part.start))
                offset += slots[-1].numel
            blocks.append(Block(index, name, tuple(slots)))
        plan = cls(tuple(blocks))
        _check_cover(plan, shapes)
        return plan


class Rows(NamedTuple):
    """Rows ``start`` to ``stop`` of a parameter, along its first dimension."""

    name: str
    start: int
    stop: int


def _length(shape: Sequence[int]) -> int:
    return shape[0] if shape else 1


def _check_cover(plan: BlockPlan, shapes: Mapping[str, Sequence[int]]) -> None:
    ends: dict[str, int] = {}
    last = None
    for slot in (slot for block in plan.blocks for slot in block.slots):
        begun = ends.get(slot.name, 0)
        if slot.first_row != begun or (begun and slot.name != last):
            raise InternalError(f"block plan: {slot.name} is in several blocks, or its rows are out of order")
        ends[slot.name] = begun + _length(slot.shape)
        last = slot.name
    for name, shape in shapes.items():
        if ends.pop(name, 0) != _length(shape):
            raise InternalError(f"block plan: {name}, or some of its rows, is in no block")
    if ends:
        raise InternalError(f"block plan: there is no parameter {min(ends)}")
