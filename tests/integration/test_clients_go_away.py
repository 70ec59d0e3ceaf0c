"""Whoever asks a daemon for something may give up, at any time: the training never notices."""

from __future__ import annotations

import re
import signal
import time

import grpc
import pytest
from support.daemon import Daemon, Fleet

from decad._proto import control_pb2 as pb
from decad._proto import control_pb2_grpc as rpc
from decad.cli.client import save
from decad.paths import control_socket

pytestmark = pytest.mark.timeout(90)

PACED = """
import time
from decad.model.trainable import TrainableModel
gradient = TrainableModel.gradient
def paced(self, *batch):
    time.sleep(0.2)
    return gradient(self, *batch)
TrainableModel.gradient = paced
"""
SLOW_DISK = """
import time
from decad.state.checkpoint import CheckpointStore
save = CheckpointStore.save
def slow(self, snapshot):
    time.sleep(0.5)
    return save(self, snapshot)
CheckpointStore.save = slow
"""
TOLD = """
import decad.cli.client as client
call = client.call
def told(*arguments):
    print("asks", flush=True)
    return call(*arguments)
client.call = told
"""
REQUESTS = {"Status": pb.StatusRequest(), "Save": pb.SaveRequest(), "Settle": pb.SettleRequest()}
"""All but the one that ends the daemon on purpose."""
LONG = ("--inner-steps", "100000", "--settle", "1000")


def test_every_request_is_here() -> None:
    (service,) = pb.DESCRIPTOR.services_by_name.values()
    assert {method.name for method in service.methods} == {*REQUESTS, "Stop"}


def goes_on(daemon: Daemon) -> None:
    daemon.until_step(daemon.status().progress.step + 3)
    assert save(daemon.state_dir) > 0
    daemon.signal(signal.SIGTERM)
    assert daemon.result().code == 0
    assert "Traceback" not in daemon.log
    assert re.search(r"stopped at step \d+, which is saved", daemon.log)


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("after_s", [0.001, 0.1, 0.4])
def test_a_request_that_is_given_up(peers: Fleet, request_name: str, after_s: float) -> None:
    daemon = peers.start("a", *LONG, before=PACED + SLOW_DISK)
    daemon.until_step(2)
    with grpc.insecure_channel(f"unix:{control_socket(daemon.state_dir)}") as channel:
        method = getattr(rpc.DaemonStub(channel), request_name)
        calls = [method.future(REQUESTS[request_name]) for _ in range(4)]
        # What is awaited is the time at which they give up, which is anywhere in the daemon's answer.
        time.sleep(after_s)
        for call in calls:
            call.cancel()
        timed_out = method.future(REQUESTS[request_name], timeout=after_s)
        assert timed_out.exception() is None or timed_out.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    goes_on(daemon)


def test_a_stop_whose_client_goes_away_is_a_stop(peers: Fleet) -> None:
    daemon = peers.start("a", before=PACED + SLOW_DISK)
    daemon.until_step(2)
    with grpc.insecure_channel(f"unix:{control_socket(daemon.state_dir)}") as channel:
        rpc.DaemonStub(channel).Stop(pb.StopRequest())
        rpc.DaemonStub(channel).Stop.future(pb.StopRequest()).cancel()  # type: ignore[no-untyped-call]
    assert daemon.result().code == 0
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("command", ["export out", "eval"])
def test_an_interrupted_command(peers: Fleet, command: str) -> None:
    """Ctrl-C while the daemon is asked for a checkpoint."""
    daemon = peers.start("a", *LONG, before=PACED + SLOW_DISK)
    daemon.until_step(2)
    data = ("--data", str(peers.texts)) if command == "eval" else ()
    interrupted = peers.launch(
        *(*command.split(), "--state-dir", "a", "--model", str(peers.model), *data), before=TOLD
    )
    deadline = time.monotonic() + 20
    while "asks" not in interrupted.out:
        assert time.monotonic() < deadline, interrupted.log
        time.sleep(0.02)
    time.sleep(0.1)
    interrupted.signal(signal.SIGINT)
    ended = interrupted.result()
    assert ended.code == 130
    assert "Traceback" not in ended.err
    goes_on(daemon)
