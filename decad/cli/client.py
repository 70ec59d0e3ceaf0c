"""Talking to the daemon of a state directory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import click
import grpc

from decad._proto import control_pb2 as pb
from decad._proto import control_pb2_grpc as rpc
from decad.errors import NoDaemonError, StateError
from decad.paths import CONTROL_SOCKET, control_socket, not_private

TIMEOUT_S = 5.0
SAVE_TIMEOUT_S = 600.0
"""A save waits for the end of the step, which may be long on a slow machine."""
POLL_S = 0.1


def call(
    state_dir: Path,
    ask: Callable[[rpc.DaemonStub], pb.StatusReply | pb.StopReply | pb.SaveReply | pb.SettleReply],
) -> object:
    """Call the daemon of ``state_dir``. Raises NoDaemonError when none answers."""
    path = control_socket(state_dir)
    if not path.exists():
        raise _nobody(state_dir)
    if path.name != CONTROL_SOCKET and (why := not_private(path.parent)):
        raise StateError(f"What answers at {path} need not be your daemon: of its directory, {why}.")
    with grpc.insecure_channel(f"unix:{path}") as channel:
        try:
            return ask(rpc.DaemonStub(channel))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise StateError(error.details() or "the daemon could not save") from None
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NoDaemonError(
                    f"The daemon of {state_dir} did not answer in time. It may be stuck: see its log."
                ) from None
            raise _nobody(state_dir) from None


def get_status(state_dir: Path) -> pb.StatusReply:
    """The daemon's status."""
    reply = call(state_dir, lambda daemon: daemon.Status(pb.StatusRequest(), timeout=TIMEOUT_S))
    assert isinstance(reply, pb.StatusReply)
    return reply


def save(state_dir: Path) -> int:
    """Have the daemon write a checkpoint; returns its step."""
    reply = call(state_dir, lambda daemon: daemon.Save(pb.SaveRequest(), timeout=SAVE_TIMEOUT_S))
    assert isinstance(reply, pb.SaveReply)
    return reply.step


def settle(state_dir: Path, as_json: bool) -> None:
    """Have the training of all peers end soon, and say when. Raises StateError."""
    reply = call(state_dir, lambda daemon: daemon.Settle(pb.SettleRequest(), timeout=TIMEOUT_S))
    assert isinstance(reply, pb.SettleReply)
    if as_json:
        eta = reply.eta_s if reply.eta_s >= 0 else None
        click.echo(json.dumps({"step": reply.step, "end": reply.end, "over": reply.over, "eta_s": eta}))
        return
    left = f", in about {reply.eta_s:.0f} s" if reply.eta_s >= 0 else ""
    click.echo(
        f"This peer is at step {reply.step}. All train until step {reply.end}. Then the blocks are mixed alone, until "
        f"step {reply.over}{left}: then all have one model, and the run is over. `decad status --watch` shows how far "
        "it is; `decad export` writes the model."
    )


def show(
    state_dir: Path, render: Callable[[pb.StatusReply], str], *, watch: bool = False, clear: bool = False
) -> None:
    """Print the status, once or every second."""
    while True:
        text = render(get_status(state_dir))
        if watch and clear:
            click.clear()
        click.echo(text)
        if not watch:
            return
        time.sleep(1)


def stop(state_dir: Path, timeout: float) -> None:
    """Ask the daemon to stop and wait until it has ended. Raises StateError when it has not in time."""
    reply = call(state_dir, lambda daemon: daemon.Stop(pb.StopRequest(), timeout=TIMEOUT_S))
    assert isinstance(reply, pb.StopReply)
    deadline = time.monotonic() + timeout
    while _runs(reply.pid):
        if time.monotonic() > deadline:
            raise StateError(
                f"The daemon (process {reply.pid}) still runs after {timeout:.0f} s. Wait, or end it with: "
                f"kill -9 {reply.pid}"
            )
        time.sleep(POLL_S)
    click.echo(f"The daemon (process {reply.pid}) has stopped.")


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _nobody(state_dir: Path) -> NoDaemonError:
    return NoDaemonError(
        f"No daemon runs with the state directory {state_dir}. Start one with `decad start`, or name another "
        "with --state-dir."
    )
