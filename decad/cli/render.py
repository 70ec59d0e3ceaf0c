"""What `decad status` and `decad neighbours` print."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict

from decad._proto import control_pb2 as pb


def as_json(reply: pb.StatusReply) -> str:
    """The whole status; figures that are not known are null."""
    return json.dumps(_plain(reply), indent=2)


def neighbours_json(reply: pb.StatusReply) -> str:
    """The neighbours alone, as a list."""
    return json.dumps(_plain(reply)["neighbours"], indent=2)


def status(reply: pb.StatusReply) -> str:
    """For people."""
    lines = [
        f"{name:<11}{value}" for name, value in (_loading(reply) if not reply.listen else _running(reply))
    ]
    if reply.listen:
        lines += ["", neighbours(reply)]
    if reply.notices:
        lines += ["", "notices"]
        lines += [f"  {_duration(notice.age_s)} ago: {notice.text}" for notice in reply.notices[-5:]]
    return "\n".join(lines)


def _loading(reply: pb.StatusReply) -> list[tuple[str, str]]:
    return [
        ("peer", f"{reply.name or 'without a name'}, process {reply.pid}, up {_duration(reply.uptime_s)}"),
        ("doing", _doing(reply)),
        ("memory", size(reply.training.memory_bytes)),
    ]


def _running(reply: pb.StatusReply) -> list[tuple[str, str]]:
    p, t = reply.progress, reply.training
    who = f"{reply.name} ({reply.peer_id[:8]})" if reply.name else reply.peer_id[:8]
    total = f" of {p.steps_total}, {p.percent:.1f} %" if p.steps_total else ""
    eta = f", {_duration(p.eta_s)} left" if p.eta_s >= 0 and p.steps_total else ""
    return [
        ("peer", f"{who}, process {reply.pid}, up {_duration(reply.uptime_s)}"),
        ("run", f"{reply.run} ({reply.fingerprint[:8]})"),
        ("listens on", f"{reply.listen}; mDNS {reply.mdns}"),
        ("links", reply.protection),
        ("doing", _doing(reply)),
        ("step", f"{p.step}{total}{eta}"),
        (
            "place",
            f"round {p.round}, block {p.block_name} ({p.blocks_total} blocks), "
            f"inner step {p.inner_step} of {p.inner_steps}",
        ),
        ("loss", f"{_figure(t.loss)} training, {_held_out(t)}"),
        (
            "speed",
            f"{t.tokens_per_s:.0f} tokens/s, {t.step_s:.2f} s a step "
            f"({t.compute_s:.2f} compute, {t.exchange_s:.2f} exchange)",
        ),
        (
            "memory",
            size(t.memory_bytes)
            + (f", {size(t.device_memory_bytes)} on the device" if t.device_memory_bytes else ""),
        ),
        *(
            [
                (
                    "privacy",
                    f"epsilon {t.dp_epsilon:.2f} at delta {t.dp_delta:g}, an example of this machine's data",
                )
            ]
            if t.dp_epsilon >= 0
            else []
        ),
        ("traffic", f"sent {_traffic(reply.traffic.sent)}; received {_traffic(reply.traffic.received)}"),
        (
            "steps",
            f"{t.steps_taken} taken, {t.steps_incomplete} with somebody missing, {t.steps_skipped} skipped: "
            f"{_share(t.steps_taken, t.steps_taken + t.steps_skipped)} of the run's",
        ),
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _doing(reply: pb.StatusReply) -> str:
    if not reply.waiting_for:
        return reply.activity
    before = "" if reply.activity == "waiting" else f"{reply.activity}: "
    return f"{before}waiting for {reply.waiting_for}"


def neighbours(reply: pb.StatusReply) -> str:
    """A table of the neighbours, for people."""
    if not reply.neighbours:
        return "no neighbours"
    head = (
        "neighbour",
        "address",
        "found",
        "state",
        "weight",
        "lag",
        "rtt ms",
        "out MB/s",
        "in MB/s",
        "share",
        "apart",
        "clipped",
        "seen",
    )
    table = [head, *(_neighbour(n) for n in reply.neighbours)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines += [f"{_who(n)}: {n.detail}" for n in reply.neighbours if n.detail]
    return "\n".join(lines)


def _neighbour(n: pb.Neighbour) -> Sequence[str]:
    return (
        _who(n),
        n.address or "-",
        n.found,
        n.state,
        f"{n.mixing_weight:.3f}",
        f"{n.step_lag:+d}" if n.state in ("alive", "suspect") else "-",
        f"{n.round_trip_ms:.1f}" if n.round_trip_ms >= 0 else "-",
        f"{n.sent_mb_per_s:.2f}",
        f"{n.received_mb_per_s:.2f}",
        _share(n.due - n.late, n.due),
        f"{n.relative_distance:.1e}" if n.relative_distance >= 0 else "-",
        f"{100 * n.clipped_share:.0f} %",
        f"{n.last_seen_s:.1f} s" if n.last_seen_s >= 0 else "-",
    )


def _who(n: pb.Neighbour) -> str:
    short = n.peer_id[:8] or "?"
    return f"{n.name} ({short})" if n.name else short


def _held_out(t: pb.Training) -> str:
    if math.isnan(t.held_out_loss):
        return "held-out not measured yet"
    return f"held-out {t.held_out_loss:.4f} at step {t.held_out_step} (first {t.first_held_out_loss:.4f})"


def _traffic(b: pb.Bytes) -> str:
    total = b.block + b.first_moment + b.second_moment + b.adapters + b.overhead + b.fetch
    share = 100 * b.overhead / total if total else 0.0
    return f"{size(total)} ({share:.2f} % overhead)"


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours = divmod(int(seconds) // 60, 60)[::-1]
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _plain(reply: pb.StatusReply) -> dict[str, Any]:
    found = MessageToDict(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    # protobuf writes 64-bit integers and non-finite floats as strings; machines want numbers or null.
    return _typed(reply, found)


def _typed(message: Any, plain: dict[str, Any]) -> dict[str, Any]:
    for field in message.DESCRIPTOR.fields:
        value = plain.get(field.name)
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            inner = getattr(message, field.name)
            if isinstance(value, list):
                plain[field.name] = [_typed(m, v) for m, v in zip(inner, value, strict=True)]
            elif isinstance(value, dict):
                plain[field.name] = _typed(inner, value)
        elif field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
            number = getattr(message, field.name)
            plain[field.name] = number if math.isfinite(number) else None
        elif isinstance(value, str) and field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64):
            plain[field.name] = int(value)
    return plain
