"""What the extra `lab` installs, and whether it is there."""

from __future__ import annotations

import importlib.util

from decad.errors import OperatorError

REPORTS = ("matplotlib", "markdown_it")
"""What reports are made with."""


def missing(*packages: str) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


def need(*packages: str) -> None:
    if names := missing(*packages):
        raise OperatorError(
            f"This needs packages that are not installed: {', '.join(names)}. Install them with: "
            "pip install 'decad[lab]'"
        )
