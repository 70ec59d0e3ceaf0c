"""One step's exchange: carries out what its `Round` decides, with the tensors that the round does not see."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from decad.core.clipping import StepClipping
from decad.core.coding import NO_BOUND, Decoder, Encoder
from decad.core.layout import Piece
from decad.core.mixing import Mixer
from decad.core.robust import Collected
from decad.core.round import Accumulate, Action, Proceed, Round
from decad.core.section import Section
from decad.core.spoiling import PARTS, StepDistances, Watched
from decad.errors import InternalError


class Coding(NamedTuple):
    """How this run codes a block: made once a phase from the run spec by the trainer."""

    sizes: Mapping[Section, int]
    """Elements of each section of a message."""
    encoder: Encoder
    new_decoder: Callable[[], Decoder]
    scale: Callable[[Section, int, int], float]
    """Section, my updates, theirs -> factor on their values (bias correction of moments)."""
    beyond: Mapping[Section, float] = NO_BOUND
    """By section, the value that nobody's may exceed: what is larger is refused on arrival."""
    robust: Callable[[int, int], StepClipping | Collected | None] = lambda step, neighbours: None
    """Of a step that is mixed with so many neighbours."""
    watched: Mapping[Section, Watched] = MappingProxyType(
        {Section.BLOCK: Watched(0, lambda step: step + 1, math.inf)}
    )
    """Sections of which nobody's may be out of all proportion."""

    def mixer(self, accumulators: Mapping[Section, Tensor], step: int, neighbours: int) -> Mixer:
        """For one step; ``accumulators``: zeroed fp32 host tensors."""
        robust = self.robust(step, neighbours)
        return Mixer(accumulators, self.encoder.chunk_elements, self.encoder.public, robust)


class _Held(NamedTuple):
    values: Tensor
    """fp32 [elements of the chunk]."""
    updates: int
    """The neighbour's in this phase."""


class StepExchange:
    """From the moment that messages of a step may come until its block is mixed, or the step given up.

    ``neighbours``: to mix with; ``slow``, ``weight``, ``tardy``: see `Round`.
    """

    def __init__(
        self,
        number: int,
        neighbours: Collection[str],
        slow: Collection[str],
        pieces: tuple[Piece, ...],
        coding: Coding,
        weight: Callable[[int, int], float],
        tardy: Collection[str] = (),
    ) -> None:
        self.number = number
        self.round = Round(neighbours, len(pieces), weight, slow, tardy)
        self.proceed: asyncio.Future[Proceed] = asyncio.get_running_loop().create_future()
        """Done when nobody is waited for any more."""
        self.mixing = asyncio.Event()
        """Set when mixing may begin, or the step is over."""
        self.over = False
        self._began: dict[str, float] = {}
        self._whole: dict[str, float] = {}
        self._sent: dict[str, float] = {}
        """When each neighbour's message of this step began and was whole, and when mine went to it, loop's clock."""
        self._pieces, self._coding = pieces, coding
        self._mixer: Mixer | None = None
        self._updates = 0
        self._held: dict[tuple[str, int], _Held] = {}
        self.distances = StepDistances(coding.watched, secrets.randbelow(PARTS))

    def half_ready(self, mixer: Mixer, updates: int, deadline: float) -> None:
        """My half-step is done, the phase's ``updates``-th of mine; mix until ``deadline`` at most."""
        self._mixer, self._updates = mixer, updates
        self._act(self.round.half_ready(deadline))
        self.mixing.set()

    def begins(self, name: str, degree: int) -> bool:
        """A neighbour's message of this step begins; returns whether it is to be mixed."""
        self._began[name] = asyncio.get_running_loop().time()
        return self.round.header(name, degree)

    def network_part(self, half: float, end: float) -> float:
        """Seconds that the exchange with the quicker half of those heard took: from ``half``, when my half-step was
        done, or from their message's beginning, until both messages were whole or the step's ``end``."""
        took = sorted(
            max(self._whole.get(name, end), self._sent.get(name, end)) - max(half, began)
            for name, began in self._began.items()
        )
        return max(0.0, took[(len(took) - 1) // 2]) if took else 0.0

    async def take(self, name: str, number: int, values: Tensor, updates: int) -> None:
        """A neighbour's chunk came, made for this step; waits while the neighbour is too far ahead of us."""
        if self.round.full(name):
            await self.mixing.wait()
        if not self.over and self.round.wants(name):
            self._held[name, number] = _Held(values, updates)
            if number == len(self._pieces) - 1:
                self._whole[name] = asyncio.get_running_loop().time()
            self._act(self.round.chunk(name))

    def sent(self, name: str) -> None:
        """My whole message went to this neighbour."""
        if not self.over:
            self._sent[name] = asyncio.get_running_loop().time()
            self._act(self.round.sent(name))

    def lost(self, name: str) -> None:
        """Nothing more comes from this neighbour for this step."""
        if not self.over:
            self._act(self.round.lost(name))

    def tick(self, now: float) -> None:
        """Time passed; the same clock as the deadline's."""
        if not self.over:
            self._act(self.round.tick(now))

    def close(self) -> None:
        """The step is over, mixed or not: whatever still comes changes nothing."""
        self.over = True
        self._held.clear()
        self.mixing.set()

    def clipped(self, name: str) -> float:
        """Which share of the distance to this neighbour's block was not taken: 0 to 1."""
        clipping = None if self._mixer is None else self._mixer.clipping
        return 0.0 if clipping is None else clipping.clipped(name)

    def distance(self, name: str) -> float:
        """Between this neighbour's block and ours, relative to ours; -1 if nothing of it was mixed."""
        return self.distances.relative(name)

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Accumulate):
                self._accumulate(action)
            elif not self.proceed.done():  # cancelled with the trainer
                self.proceed.set_result(action)

    def _accumulate(self, action: Accumulate) -> None:
        if self._mixer is None:
            raise InternalError("a chunk is mixed before the half-step is done")
        name, (values, updates) = action.neighbour, self._held.pop((action.neighbour, action.chunk))
        piece = self._pieces[action.chunk]
        scale = self._coding.scale(piece.section, self._updates, updates)
        self._mixer.add(name, piece.section, piece.chunk, action.weight, values, scale)
        public = self._coding.encoder.public[piece.section]
        self.distances.add(piece.section, name, piece.start, values, public)
