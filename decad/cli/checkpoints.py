"""`decad checkpoints`: what lies in a state directory, without the daemon and without torch."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from decad.cli.render import size
from decad.errors import StateError
from decad.state.history import Stored, checkpoints, restore
from decad.state.lock import reading
from decad.state.manifest import DamagedError


def show(state_dir: Path, as_json: bool, *, thorough: bool) -> None:
    """Print the checkpoints; ``thorough`` reads every byte, and raises StateError if one is damaged."""
    if not state_dir.is_dir():
        raise StateError(f"There is no state directory {state_dir}. Name another one with --state-dir.")
    sound: set[str] | None = set() if thorough else None
    with reading(state_dir):
        found = [(stored, stored.damage(sound)) for stored in checkpoints(state_dir)]
    current = next((stored for stored, damage in found if damage is None), None)
    if as_json:
        click.echo(json.dumps([_plain(s, damage, s is current) for s, damage in found], indent=2))
    elif not found:
        click.echo(f"There is no checkpoint in {state_dir} yet.")
    else:
        click.echo(f"{'step':>10}  {'saved':<19}  {'blocks':>6}  {'size':>10}  state")
        for stored, damage in found:
            click.echo(_row(stored, _state(damage, stored is current, thorough)))
    if thorough and (damaged := [damage for _, damage in found if damage is not None]):
        instead = ""
        if current is not None and current.manifest is not None:
            instead = (
                f" `decad start` continues from the one of step {current.manifest.run.step}, which is whole."
            )
        raise StateError(f"{len(damaged)} of {len(found)} checkpoints in {state_dir} are damaged.{instead}")


def restore_step(state_dir: Path, step: int) -> None:
    """Make the checkpoint of ``step`` the current one. Raises StateError."""
    restore(state_dir, step)
    click.echo(
        f"The next `decad start` continues from step {step}. The others are kept until its first save."
    )


def _state(damage: DamagedError | None, current: bool, thorough: bool) -> str:
    if damage is not None:
        return f"damaged: {damage.path}: {damage.what}"
    return ("whole" if thorough else "all files there") + (", current" if current else "")


def _row(stored: Stored, state: str) -> str:
    if (manifest := stored.manifest) is None:
        return f"{'?':>10}  {'?':<19}  {'?':>6}  {'?':>10}  {state}"
    saved = datetime.fromtimestamp(manifest.saved).strftime("%Y-%m-%d %H:%M:%S")
    blocks, bytes_ = len(manifest.blocks), sum(record.size for record in manifest.tensor_files)
    return f"{manifest.run.step:>10}  {saved}  {blocks:>6}  {size(bytes_):>10}  {state}"


def _plain(stored: Stored, damage: DamagedError | None, current: bool) -> dict[str, object]:
    plain: dict[str, object] = {
        "manifest": stored.path.name,
        "current": current,
        "damage": None if damage is None else {"file": str(damage.path), "what": damage.what},
    }
    if (manifest := stored.manifest) is None:
        return plain | {"step": None}
    return plain | {
        "step": manifest.run.step,
        "saved": datetime.fromtimestamp(manifest.saved, UTC).isoformat(timespec="seconds"),
        "blocks": sorted(manifest.blocks),
        "active_block": None if manifest.active is None else manifest.active.block,
        "size_bytes": sum(record.size for record in manifest.tensor_files),
    }
