"""`decad completion`: the script that makes a shell complete decad's commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


def script(command: click.Command, shell: str) -> str:
    """For bash, zsh or fish: click's own, which asks decad itself as one types."""
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(command, {}, "decad", "_DECAD_COMPLETE").source()
