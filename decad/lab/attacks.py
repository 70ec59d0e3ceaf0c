"""Members that mean harm, as the robustness literature has them: what they tell others in the place of their block.

noise: their block and noise twice as long as it; scale: a thousand times their block; flip: its negative; manipulate:
the victim's block moved against where the honest ones would move it (inner-product manipulation, Xie, Koyejo and Gupta,
arXiv 1903.03936); frozen: the block as the phase found it; ascent: they train against the gradient, as flipped labels
do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["none", "noise", "scale", "flip", "manipulate", "frozen", "ascent"]
NOISE = 2.0
"""Length of the noise, in lengths of the block."""
SCALE = 1000.0
AGAINST = 10.0
"""How much further than the honest ones' pull the manipulated block pulls, the other way."""


class Attack:
    """What attackers tell of one block; the block's public values are fp32 [n] on the host."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self.kind = kind
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def ascends(self) -> bool:
        """Whether attackers turn their gradients round."""
        return self.kind == "ascent"

    def told(self, own: Tensor, began: Tensor, victim: Tensor, honest: Sequence[Tensor]) -> Tensor:
        """What a victim with the block ``victim`` hears in the place of ``own``.

        ``began``: the attacker's block when the phase began; ``honest``: those of the victim's other neighbours.
        """
        match self.kind:
            case "noise":
                noise = torch.randn(own.shape, generator=self._generator)
                return torch.add(own, noise * (NOISE * torch.linalg.vector_norm(own) / own.numel() ** 0.5))
            case "scale":
                return own * SCALE
            case "flip":
                return -own
            case "manipulate":
                pull = torch.zeros_like(victim)
                for other in honest:
                    pull.add_(other - victim, alpha=1 / len(honest))
                return victim - AGAINST * pull
            case "frozen":
                return began
        return own
