"""In what a model's weights can be held while they are trained."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""By the names that settings have for them."""
