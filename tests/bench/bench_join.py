"""What a joiner costs its donor: seconds of the donor's block step, with and without somebody who fetches its blocks.

    python tests/bench/bench_join.py --model DIR [--steps 12]

Two processes of one thread each; the joiner's has the lowest priority, since a joiner has a machine of its own. The
donor computes gradient and local step of the last layer, over and over; the joiner fetches all other blocks from it,
over and over, while every second step of the donor goes on. Medians of both kinds of step from one run, and their
ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import os
import statistics
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import torch
import uvloop

from decad.core.adam import AdamState, local_step
from decad.core.batch import Batch
from decad.core.constants import AdamConstants
from decad.daemon.compute import ComputeThread
from decad.daemon.download import Download
from decad.daemon.fetch import Donation, FetchPort
from decad.model.trainable import TrainableModel
from decad.wire.counters import Traffic
from decad.wire.grpc_transport import GrpcTransport
from decad.wire.malloc import tune_malloc
from decad.wire.sealed import SealedTransport
from decad.wire.transport import Link

Pipe: TypeAlias = "Connection[Any, Any]"
BATCH = (4, 128)


async def donor(pipe: Pipe, model: TrainableModel, steps: int) -> None:
    compute = ComputeThread(1)
    block = model.plan[len(model.plan) - 1]
    theta = await compute.run(model.activate, block)
    state, constants = AdamState.zeros(block.numel, "cpu"), AdamConstants()
    tokens = torch.randint(0, model.vocab_size, BATCH, generator=torch.Generator().manual_seed(0))
    batch = Batch.next_token(tokens)

    def step() -> None:
        _, gradient = model.gradient(batch)
        local_step(theta, gradient, state, constants, 1e-6)
        model.sync()

    async def donate(index: int) -> Donation:
        return Donation(await asyncio.to_thread(model.block, index), 0, False)

    async def on_link(link: Link) -> None:
        with suppress(ExceptionGroup):  # the link's end
            await FetchPort(link.fetch, model.plan, donate, Traffic()).run()

    transport = SealedTransport(GrpcTransport())
    pipe.send(await transport.listen("127.0.0.1:0", on_link))
    await asyncio.to_thread(pipe.recv)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * steps + 2):
        joining = number % 2 == 1
        if joining:
            pipe.send("fetch")
        began = time.perf_counter()
        await compute.run(step)
        if number >= 2:
            seconds[joining].append(time.perf_counter() - began)
        if joining:
            pipe.send("stop")
            await asyncio.to_thread(pipe.recv)
    pipe.send(seconds)
    await asyncio.to_thread(pipe.recv)
    await transport.close()
    compute.close()


async def joiner(pipe: Pipe, model: TrainableModel) -> None:
    torch.set_num_threads(1)
    address = pipe.recv()
    transport = SealedTransport(GrpcTransport())
    link = await transport.dial(address, 10)
    traffic = Traffic()
    port = FetchPort(link.fetch, model.plan, _nothing, traffic)
    serving = asyncio.create_task(port.run())
    blocks = itertools.cycle(range(len(model.plan) - 1))
    pipe.send("ready")
    spent = 0.0

    while await asyncio.to_thread(pipe.recv) == "fetch":
        began = time.perf_counter()
        enough = asyncio.create_task(asyncio.to_thread(pipe.recv))
        while not enough.done():
            await Download(model.plan).fetch({"donor": port}, [next(blocks)], _take)
        spent += time.perf_counter() - began
        pipe.send("stopped")
    pipe.send(traffic.received.fetch / 1e6 / spent)
    serving.cancel()
    await transport.close()


async def _nothing(index: int) -> Donation:
    raise NotImplementedError


async def _take(index: int, donation: Donation) -> bool:
    return True


def run_peer(pipe: Pipe, donates: bool, directory: Path, steps: int) -> None:
    tune_malloc()
    torch.set_num_threads(1)
    if not donates:
        os.nice(19)
    model = TrainableModel.load(directory, torch.device("cpu"), torch.float32)
    uvloop.run(donor(pipe, model, steps) if donates else joiner(pipe, model))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for donates in (True, False):
        here, there = context.Pipe()
        process = context.Process(target=run_peer, args=(there, donates, options.model, options.steps))
        process.start()
        pipes.append(here)
        processes.append(process)
    donating, joining = pipes
    joining.send(donating.recv())
    joining.recv()
    donating.send("go")
    while isinstance(told := donating.recv(), str):
        joining.send(told)
        if told == "stop":
            donating.send(joining.recv())
    joining.send("end")
    rate = joining.recv()
    donating.send("end")
    for process in processes:
        process.join()
    alone, meanwhile = (statistics.median(told[kind]) for kind in (False, True))
    print(f"donor's step: {alone:.3f} s, while a joiner fetches {rate:.0f} MB/s: {meanwhile:.3f} s")
    print(f"ratio    {meanwhile / alone:7.2f} (goal: at most 1.1)")


if __name__ == "__main__":
    main()
