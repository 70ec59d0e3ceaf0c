"""`decad blocks`: how a model is divided, and what each block takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import psutil

from decad.cli.render import size
from decad.config import RunSpec
from decad.core.blocks import Block
from decad.core.coding import CHUNK_ELEMENTS
from decad.core.layout import cut
from decad.core.moments import moment_rule
from decad.core.section import Section
from decad.daemon import peer  # noqa: F401  # what a daemon imports is part of what it takes
from decad.daemon.device import choose_device, choose_dtype
from decad.model.length import context_length, sequence_length
from decad.model.loading import load_config, what_to_train
from decad.model.memory import measure
from decad.settings import load_settings
from decad.wire import messages
from decad.wire.counters import overhead_bytes, payload_bytes


def show_blocks(flags: Mapping[str, Any], file: Path | None, neighbours: int, as_json: bool) -> None:
    """Print the plan by the settings of flags, environment and file. Raises ModelError and ConfigError."""
    asked, config = load_settings(flags, file, needed=("model",))
    assert config.model is not None
    spec = what_to_train(config.model, asked)
    chosen = choose_dtype(config.dtype, choose_device(config.device))
    sequences = config.batch_size
    seq_len = sequence_length(config.seq_len, context_length(load_config(config.model, spec)))
    at_once = min(sequences, config.micro_batch or sequences)
    libraries = psutil.Process().memory_info().rss
    plan, frozen, adapters, needs = measure(
        config.model,
        spec,
        chosen,
        sequences,
        seq_len,
        neighbours,
        micro_batch=config.micro_batch,
        checkpointing=config.gradient_checkpointing,
    )
    rows = [
        (block.name, block.numel, _bytes_per_step(spec, block, adapters), libraries + need.total)
        for block, need in zip(plan.blocks, needs, strict=True)
    ]
    worst = max(range(len(rows)), key=lambda place: needs[place].total)
    parts = {"libraries": libraries, **needs[worst]._asdict()}
    held_in = str(chosen).removeprefix("torch.")
    if as_json:
        keys = ("name", "parameters", "bytes_per_step", "memory")
        report = {
            "dtype": held_in,
            "sequences": sequences,
            "at_once": at_once,
            "seq_len": seq_len,
            "trained": plan.numel,
            "frozen": frozen,
            "adapters": adapters,
            "most_memory": {"block": rows[worst][0], **parts},
            "blocks": [dict(zip(keys, row, strict=True)) for row in rows],
        }
        click.echo(json.dumps(report, indent=2))
        return
    width = max(5, *(len(name) for name, *_ in rows))
    click.echo(f"{'block':<{width}}  {'parameters':>13}  {'sent a step':>11}  {'memory':>10}")
    for name, numel, sent, memory in rows:
        click.echo(f"{name:<{width}}  {numel:>13,}  {size(sent):>11}  {size(memory):>10}")
    in_parts = f" in parts of {at_once}" if at_once < sequences else ""
    shown = {
        "libraries": "Python and its libraries",
        "weights": f"weights in {held_in}",
        "optimiser": "master copy and moments",
        "step": f"a step on {sequences} x {seq_len} tokens{in_parts}",
        "exchange": "public copies",
    }
    listed = ", ".join(f"{shown[part]} {size(taken)}" for part, taken in parts.items() if taken)
    beside = f", {adapters:,} of adapters beside each block" if adapters else ""
    click.echo(
        f"\n{len(plan)} blocks, {plan.numel:,} parameters trained, {frozen:,} frozen{beside}. "
        "Sent a step: to one neighbour.\n"
        f"Most memory: {rows[worst][0]}, {size(rows[worst][3])}: {listed}."
    )


def _bytes_per_step(spec: RunSpec, block: Block, adapters: int) -> int:
    """To one neighbour, with the moments of the rule, after the phase's first message."""
    sizes = {Section.BLOCK: block.numel, **moment_rule(spec.moments).sections(block)}
    if adapters:
        sizes[Section.ADAPTERS] = adapters
    header = messages.BlockHeader(
        run=1,
        step=1000,
        block=block.index,
        degree=1,
        sequence=1,
        full=spec.encoding == "fp32",
        updates=2,
        chunks=len(cut(sizes, CHUNK_ELEMENTS[spec.encoding])),
        extents=tuple(sorted(sizes.items())),
        compute_us=1,
    )
    return sum(payload_bytes(sizes, spec.encoding).values()) + overhead_bytes(header, spec.encoding)
