"""Mixing: the weighted discrepancy between the neighbours' public values and one's own.

    d = sum_j w_ij * (public_j - public_i)       over the neighbours heard in this step

docs/theory.md, "Mixing". With symmetric weights the discrepancies of all peers add up to zero, so mixing keeps the
network average, whatever the coding of the wire lost (T1). The paper (arXiv 2606.03209) averages the blocks as they
are, theta_(r+1) = sum_j w_ij theta_j,(r+1/2), which is the same where nothing is lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor

from decad.core.clipping import StepClipping
from decad.core.pieces import pieces
from decad.core.robust import Collected
from decad.core.section import Section
from decad.errors import InternalError


class Mixer:
    """Mixes one step: `add` every neighbour's chunks as they arrive, then `finish`.

    ``accumulators``: one zeroed fp32 vector a section, overwritten with the discrepancies; the gradient's
    buffer may serve once the local step has used it. A chunk has ``chunk_elements`` elements, the last may
    have fewer.
    """

    def __init__(
        self,
        accumulators: Mapping[Section, Tensor],
        chunk_elements: int,
        public: Mapping[Section, Tensor],
        robust: StepClipping | Collected | None = None,
    ) -> None:
        """``public``: this peer's own values as its neighbours decode them (`Encoder.public`)."""
        self._accumulators = accumulators
        self._chunk_elements = chunk_elements
        self._public = public
        self.clipping = robust if isinstance(robust, StepClipping) else None
        self._collected = robust if isinstance(robust, Collected) else None
        self._weights: defaultdict[tuple[Section, int], float] = defaultdict(float)
        self._heard: set[tuple[str, Section, int]] = set()

    def add(
        self, neighbour: str, section: Section, chunk: int, weight: float, values: Tensor, scale: float = 1.0
    ) -> None:
        """Accumulate ``weight * scale * values`` for one chunk of one neighbour.

        ``weight``: the edge's mixing weight. ``values``: fp32 [elements of this chunk], on any device; only
        read. ``scale``: see `moment_scale`; at 0 there is nothing to compare and the chunk counts as missing.
        Call in peer-id order within a chunk, so that sums do not depend on arrival.
        Raises InternalError for a chunk that this neighbour has already added.
        """
        if (neighbour, section, chunk) in self._heard:
            raise InternalError(f"mixing: {neighbour} added chunk {chunk} of {section.name} twice")
        self._heard.add((neighbour, section, chunk))
        if scale == 0:
            return
        here = slice(chunk * self._chunk_elements, (chunk + 1) * self._chunk_elements)
        piece, own = self._accumulators[section][here], self._public[section][here]
        self._weights[section, chunk] += weight
        if self._collected is not None:
            self._collected.add(section, chunk, values, scale)
            return
        share = 1.0
        if self.clipping is not None:
            share = self.clipping.share(neighbour, section, chunk, values, own.float(), scale)
            if share < 1:
                piece.add_(own.to(piece.device), alpha=weight * (1 - share))
        piece.add_(values.to(piece.device), alpha=weight * scale * share)

    def finish(self) -> dict[Section, Tensor]:
        """The discrepancies d, one vector a section, in place of the accumulators; 0 where nobody was heard."""
        if self.clipping is not None:
            self.clipping.finish()
        for section, accumulator in self._accumulators.items():
            for chunk, piece in enumerate(pieces(accumulator.numel(), self._chunk_elements)):
                if not (weight := self._weights.get((section, chunk))):
                    continue
                own = self._public[section][piece]
                if self._collected is not None:
                    accumulator[piece].copy_(self._collected.discrepancy(section, chunk, own.float()))
                else:
                    accumulator[piece].sub_(own, alpha=weight)
        return dict(self._accumulators)

    def take_back(self) -> None:
        """Nobody was heard, whatever was added so far: the discrepancies will be 0."""
        self._weights.clear()
        for accumulator in self._accumulators.values():
            accumulator.zero_()


def moment_scale(section: Section, a1: float, a2: float, mine: int, theirs: int) -> float:
    """Factor that makes a neighbour's moments comparable to mine when our update counts differ.

    Moments that start at zero are short of what they estimate by 1 - a^updates, so those of a peer that
    joined in mid-phase are compared bias-corrected. Equal counts give exactly 1, and the published equation;
    a peer without updates has no estimate, and the factor is 0.
    """
    if section in (Section.BLOCK, Section.ADAPTERS) or mine == theirs:
        return 1.0
    if not mine or not theirs:
        return 0.0
    decay = a1 if section is Section.FIRST else a2
    return float((1 - decay**mine) / (1 - decay**theirs))
