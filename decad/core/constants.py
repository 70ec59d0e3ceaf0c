"""The constants of block Adam. Without torch: settings are read where nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass

MAX_STEP = 2**53
"""No run comes here; beyond it a double no longer counts in ones."""
MAX_LEARNT = 1024
"""Addresses of peers that are kept though the operator did not give them: others can name any number."""

ADAM_STEP = 3.2
"""Largest change of one value by one Adam step, in learning rates: (1 - a1) / sqrt(1 - a2) at the usual constants
(Kingma and Ba, arXiv 1412.6980, section 2.1)."""


@dataclass(frozen=True)
class AdamConstants:
    """Constants of the local step and of the moment rule, named as in the paper."""

    a1: float = 0.9
    """Decay of the first moment in the local step."""
    a2: float = 0.999
    """Decay of the second moment in the local step."""
    b1: float = 0.5
    """Share of m_half in m_next; the rest is the consensus signal h. See `decad.core.moments.default_b1`."""
    b2: float = 0.999
    """Share of v_half in v_next; the printed rule alone uses it."""
    eps: float = 1e-8
    weight_decay: float = 0.0
    """Decoupled: each step takes lr * weight_decay of the value off."""
    clip: float = 0.0
    """Largest gradient norm over the block; 0 does not clip."""
