"""What whole peers mixed, held against what every one of them sent: a book that no step may falsify.

Entries are made from inside the exchange of every peer (`WatchedExchange` in the place of the daemon's own), and
checked as they are made.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from decad.core.mixing import Mixer
from decad.core.round import Proceed
from decad.core.section import Section
from decad.daemon import peer, step
from decad.daemon.exchange import Exchange

TOLERANCE = 1e-5
"""Of a discrepancy in fp32 against one in fp64, relative to the values that it is made of."""
INSTANT_S = 1e-6
"""What a timer may be late on the virtual clock."""


class WrongError(AssertionError):
    """A peer did what none may do."""


@dataclass
class Entry:
    """One peer's part in one step."""

    peer: str
    """Its id."""
    life: int
    """Which of the processes of that peer; each counts its steps anew from its checkpoint."""
    step: int
    block: int
    public: dict[Section, Tensor]
    """What its neighbours decode."""
    weights: dict[str, float] = field(default_factory=dict)
    """By neighbour of whom anything was mixed."""
    heard: dict[str, Entry] = field(default_factory=dict)
    chunks: Counter[str] = field(default_factory=Counter)
    """Chunks of the block that were mixed, by neighbour."""
    expected: Tensor = field(init=False)
    """The discrepancy of the block that follows from the contributions, fp64."""
    increment: Tensor | None = None
    """What mixing added to the block; None until it is done, or if the process ended before."""

    def __post_init__(self) -> None:
        self.expected = torch.zeros_like(self.public[Section.BLOCK], dtype=torch.float64)

    @property
    def size(self) -> float:
        """Norm of the block."""
        return float(self.public[Section.BLOCK].norm())


class Drift(NamedTuple):
    """How far one step's mixing moved the network average, as norms over the block."""

    measured: float
    """Of the sum of all increments over n."""
    bound: float
    """(1/n) sum of w_ij |p_j - p_i| over the directions in which one end did not hear the other."""


class Ledger:
    """All entries of one run."""

    def __init__(self) -> None:
        self.steps: defaultdict[int, list[Entry]] = defaultdict(list)
        self.mixed = 0
        """Contributions that were checked."""
        self.pairs = 0
        """Edges whose ends both mixed each other, with the same weight."""

    def open(self, peer: str, life: int, step: int, block: int, public: Mapping[Section, Tensor]) -> Entry:
        """A peer sends its half-step: the values that it must be known by."""
        copies = {section: values.detach().float().clone() for section, values in public.items()}
        entry = Entry(peer, life, step, block, copies)
        self.steps[step].append(entry)
        return entry

    def contribution(
        self, entry: Entry, neighbour: str, section: Section, start: int, weight: float, values: Tensor
    ) -> None:
        """``entry``'s peer mixes values of a neighbour."""
        sent = [other for other in self.steps[entry.step] if other.peer == neighbour]
        if not sent:
            raise WrongError(f"step {entry.step}: mixed {neighbour[:8]}, who has not taken this step")
        for other in reversed(sent):
            theirs = other.public[section][start : start + values.numel()]
            if other.block == entry.block and torch.equal(theirs, values.float()):
                break
        else:
            raise WrongError(
                f"step {entry.step}: what {entry.peer[:8]} mixes of {neighbour[:8]} in {section.name} from {start} is "
                f"not what that one sent: {values.tolist()} instead of {[s.public[section].tolist() for s in sent]}"
            )
        if entry.weights.setdefault(neighbour, weight) != weight:
            raise WrongError(f"step {entry.step}: two weights for the edge to {neighbour[:8]}")
        entry.heard[neighbour] = other
        self.mixed += 1
        if section is Section.BLOCK:
            entry.chunks[neighbour] += 1
            here = slice(start, start + values.numel())
            ours = entry.public[section][here].double()
            entry.expected[here] += weight * (values.double() - ours)

    def close(self, entry: Entry, increments: Mapping[Section, Tensor]) -> None:
        """A peer has mixed: compare with what follows from the entries, and with those at the edges' other ends."""
        for section, values in increments.items():
            if not bool(torch.isfinite(values).all()):
                raise WrongError(f"step {entry.step}: a discrepancy of {section.name} is not finite")
        entry.increment = increments[Section.BLOCK].clone()
        off = float((entry.increment - entry.expected).norm())
        if off > TOLERANCE * max([entry.size, *(other.size for other in entry.heard.values())]):
            raise WrongError(f"step {entry.step}: {entry.peer[:8]} adds a discrepancy that is off by {off}")
        for neighbour, other in entry.heard.items():
            if other.increment is None or other.heard.get(entry.peer) is not entry:
                continue
            if other.weights[entry.peer] != entry.weights[neighbour]:
                raise WrongError(
                    f"step {entry.step}: the edge {entry.peer[:8]}-{neighbour[:8]} has weight "
                    f"{entry.weights[neighbour]} at one end and {other.weights[entry.peer]} at the other"
                )
            self.pairs += 1

    def drift(self, step: int, members: int) -> Drift:
        """Of one step that all ``members`` took."""
        total, bound, scale = torch.zeros((), dtype=torch.float64), 0.0, 0.0
        for entry in self.steps[step]:
            if entry.increment is None:
                continue
            total = total + entry.increment
            scale += entry.size
            for neighbour, other in entry.heard.items():
                back = other.increment is not None and other.heard.get(entry.peer) is entry
                if back and other.chunks[entry.peer] == entry.chunks[neighbour]:
                    continue
                apart = other.public[Section.BLOCK].double() - entry.public[Section.BLOCK].double()
                bound += entry.weights[neighbour] * float(apart.norm())
        return Drift(float(total.norm()) / members, bound / members + TOLERANCE * scale / members)


class Writer(NamedTuple):
    """One process's hand in the ledger."""

    ledger: Ledger
    peer: str
    life: int


WRITER: ContextVar[Writer] = ContextVar("WRITER")
"""Of the process whose code is running."""
_ENTRY: ContextVar[Entry] = ContextVar("_ENTRY")
"""Of the step that is being mixed."""


class WatchedMixer(Mixer):
    """Enters every contribution."""

    def __init__(self, accumulators: Mapping[Section, Tensor], chunk_elements: int, *rest: Any) -> None:
        super().__init__(accumulators, chunk_elements, *rest)
        self._ledger, self._entry, self._size = WRITER.get().ledger, _ENTRY.get(), chunk_elements

    def add(
        self, neighbour: str, section: Section, chunk: int, weight: float, values: Tensor, scale: float = 1.0
    ) -> None:
        self._ledger.contribution(self._entry, neighbour, section, chunk * self._size, weight, values)
        super().add(neighbour, section, chunk, weight, values, scale)

    def finish(self) -> dict[Section, Tensor]:
        d = super().finish()
        self._ledger.close(self._entry, d)
        return d


class WatchedExchange(Exchange):
    """Opens an entry for every step; no step waits longer than its deadline, and who is not missing was mixed whole."""

    async def mix(
        self, updates: int, accumulators: Mapping[Section, Tensor], computed: float
    ) -> tuple[Proceed, Mixer]:
        assert self._step is not None
        assert self._coding is not None
        writer, step, begun = WRITER.get(), self._step.number, asyncio.get_running_loop().time()
        public, neighbours = self._coding.encoder.public, self._step.round.neighbours
        chunks = sum(piece.section is Section.BLOCK for piece in self._pieces)
        entry = writer.ledger.open(writer.peer, writer.life, step, self._block, public)
        _ENTRY.set(entry)
        proceed, mixer = await super().mix(updates, accumulators, computed)
        waited = asyncio.get_running_loop().time() - begun
        if waited > self.last_deadline + INSTANT_S:
            raise WrongError(
                f"step {step}: waited {waited:.3f} s, and the deadline was {self.last_deadline:.3f} s"
            )
        for neighbour in set(neighbours).difference(proceed.missing):
            if entry.chunks[neighbour] != chunks:
                raise WrongError(
                    f"step {step}: mixed {entry.chunks[neighbour]} of {chunks} chunks of {neighbour[:8]}, who is not "
                    "said to be missing"
                )
        return proceed, mixer


@contextmanager
def watched() -> Iterator[None]:
    """Exchanges that are made in this context are watched."""
    with patch.object(step, "Mixer", WatchedMixer), patch.object(peer, "Exchange", WatchedExchange):
        yield
