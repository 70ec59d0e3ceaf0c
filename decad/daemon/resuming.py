"""What a checkpoint says of the run's settings, beside what the operator says now."""

from __future__ import annotations

from pathlib import Path

from decad.config import LOADED_FIELDS, LOADING_FIELDS, RunSpec
from decad.daemon.context import RunSettings
from decad.errors import StateError
from decad.membership.agreement import told_apart
from decad.state.checkpoint import Checkpoint


def spec_to_load(spec: RunSpec, checkpoint: Checkpoint | None) -> RunSpec:
    """``spec``, with what a model is loaded by as it was when the checkpoint was made, unless it was set now."""
    if checkpoint is None:
        return spec
    saved = RunSpec.from_saved(checkpoint.run.spec).model_dump(include=set(LOADING_FIELDS))
    filled = {name: value for name, value in saved.items() if name not in spec.model_fields_set}
    return spec.model_copy(update=filled)


def settings_to_begin_with(spec: RunSpec, checkpoint: Checkpoint | None, model: Path | None) -> RunSettings:
    """A checkpoint's own settings, where there is one.

    ``spec``: as it is now, with what was measured of the model. Raises StateError when something that was set now, or
    the model, contradicts the checkpoint.
    """
    set_now = frozenset(spec.model_fields_set) - LOADED_FIELDS
    if checkpoint is None:
        return RunSettings(spec, set_now)
    saved = RunSpec.from_saved(checkpoint.run.spec)
    if not saved.model_files:  # saved by a version that did not measure them
        saved = saved.model_copy(update={"model_files": spec.model_files})
    differing = spec.differences(saved)
    contradicted = differing.keys() & (LOADED_FIELDS | set_now)
    if "model_hash" in contradicted:
        raise StateError(
            f"The checkpoint in {checkpoint.directory} was trained from another base model than "
            f"{model or 'the module as it is now'}. "
            "Start with the one that it had, or give another directory with --state-dir to begin anew."
        )
    if contradicted:
        told = (each for name in sorted(contradicted) for each in told_apart(name, *differing[name]))
        listed = "; ".join(f"{each.field} is {each.mine} now and was {each.theirs}" for each in told)
        raise StateError(
            f"The checkpoint in {checkpoint.directory} belongs to a run with other settings: {listed}. Start with the "
            "settings that it had, or give another directory with --state-dir to begin anew."
        )
    return RunSettings(saved, frozenset(checkpoint.run.set_fields) | set_now)
