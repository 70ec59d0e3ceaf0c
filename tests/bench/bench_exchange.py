"""Exchange of one block between two processes, both directions at once: decad's wire against raw TCP.

    python tests/bench/bench_exchange.py [--rounds 15] [--mebibytes 32] [--stock-malloc]

Prints the median MB/s of both (10^6 bytes, both directions summed) and their ratio. decad's side is what a
step does: chunks packed from a tensor, sent over the real transport, parsed, and accumulated with a weight on
arrival. Raw TCP is blocking sockets with a thread a direction and adds nothing up. A joiner's fetch of the same
block, one way, is the third. They take turns, so that whatever else the machine does disturbs all alike; compare
only within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
import statistics
import threading
import time
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import torch
import uvloop

from decad.core.blocks import BlockPlan
from decad.core.section import Section
from decad.daemon.fetch import Donation, FetchPort, PartialBlock
from decad.wire import messages
from decad.wire.counters import Traffic
from decad.wire.grpc_transport import GrpcTransport
from decad.wire.malloc import tune_malloc
from decad.wire.sealed import SealedTransport
from decad.wire.transport import Link

CHUNK_BYTES = 1 << 20
WEIGHT = 0.25

Pipe: TypeAlias = "Connection[Any, Any]"


def exchange_raw(sock: socket.socket, block: bytearray, into: bytearray) -> float:
    """Send ``block`` and receive as much, on two threads; seconds."""
    began = time.perf_counter()
    sender = threading.Thread(target=sock.sendall, args=(block,))
    sender.start()
    view = memoryview(into)
    while view:
        view = view[sock.recv_into(view) :]
    sender.join()
    return time.perf_counter() - began


async def peer(pipe: Pipe, listens: bool, size: int) -> None:
    """One process: raw, decad and fetch in turns, as the pipe says, until it says stop."""
    torch.set_num_threads(1)
    block = torch.ones(size // 4)
    accumulator = torch.zeros(size // 4)
    raw_block, raw_into = bytearray(size), bytearray(size)
    transport = SealedTransport(GrpcTransport())
    if listens:
        accepted: asyncio.Queue[Link] = asyncio.Queue()
        ended = asyncio.Event()

        async def on_link(link: Link) -> None:
            accepted.put_nowait(link)
            await ended.wait()

        address = await transport.listen("127.0.0.1:0", on_link)
        server = socket.create_server(("127.0.0.1", 0))
        pipe.send((address, server.getsockname()))
        sock, _ = server.accept()
        link = await accepted.get()
    else:
        address, raw_address = pipe.recv()
        sock = socket.create_connection(raw_address)
        link = await transport.dial(address, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send() -> None:
        payload = block.numpy().data.cast("B")
        for index, start in enumerate(range(0, size, CHUNK_BYTES)):
            chunk = payload[start : start + CHUNK_BYTES]
            await link.blocks.send(messages.chunk(Section.BLOCK, index, chunk))

    async def receive() -> None:
        for _ in range(0, size, CHUNK_BYTES):
            chunk = messages.parse_block(await link.blocks.receive())
            assert isinstance(chunk, messages.BlockChunk)
            start = chunk.index * CHUNK_BYTES // 4
            values = messages.as_tensor(chunk.payload)
            accumulator[start : start + values.numel()].add_(values, alpha=WEIGHT)

    async def donate(index: int) -> Donation:
        return Donation(block.clone(), 0, False)

    plan = BlockPlan.build([("block", ["w"])], {"w": (size // 4,)})
    port = FetchPort(link.fetch, plan, donate, Traffic())
    serving = asyncio.create_task(port.run())

    pipe.send("ready")
    while (what := pipe.recv()) != "stop":
        if what == "raw":
            pipe.send(exchange_raw(sock, raw_block, raw_into))
        elif what == "fetch":
            began = time.perf_counter()
            if not listens:
                await port.fetch(0, PartialBlock(size // 4))
            pipe.send(time.perf_counter() - began)
            await asyncio.to_thread(pipe.recv)  # goes on serving until the other end has it all
        else:
            began = time.perf_counter()
            cpu = time.process_time()
            await asyncio.gather(send(), receive())
            pipe.send((time.perf_counter() - began, time.process_time() - cpu))
    serving.cancel()
    if listens:
        ended.set()
    await transport.close()
    sock.close()


def run_peer(pipe: Pipe, listens: bool, size: int, stock_malloc: bool) -> None:
    if not stock_malloc:
        tune_malloc()
    uvloop.run(peer(pipe, listens, size))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--mebibytes", type=int, default=32)
    parser.add_argument("--stock-malloc", action="store_true")
    options = parser.parse_args()
    size = options.mebibytes << 20
    context = multiprocessing.get_context("spawn")
    pipes = []
    processes = []
    for listens in (True, False):
        here, there = context.Pipe()
        processes.append(context.Process(target=run_peer, args=(there, listens, size, options.stock_malloc)))
        processes[-1].start()
        pipes.append(here)
    listener, dialler = pipes
    dialler.send(listener.recv())
    for pipe in pipes:
        assert pipe.recv() == "ready"
    seconds: dict[str, list[float]] = {"raw": [], "decad": [], "fetch": []}
    cpu = []
    for number in range(options.rounds + 2):
        for what in seconds:
            for pipe in pipes:
                pipe.send(what)
            took = [pipe.recv() for pipe in pipes]
            if what == "fetch":
                for pipe in pipes:
                    pipe.send("served")
            if number < 2:  # windows, caches and heaps warm up
                continue
            if what != "decad":
                seconds[what].append(max(took))
            else:
                seconds[what].append(max(wall for wall, _ in took))
                cpu.append(sum(spent for _, spent in took))
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send("stop")
        process.join()
    rate = {what: 2 * size / 1e6 / statistics.median(values) for what, values in seconds.items()}
    print(f"raw TCP  {rate['raw']:7.0f} MB/s")
    print(f"decad    {rate['decad']:7.0f} MB/s, {statistics.median(cpu) / (2 * size / 1e9):.2f} CPU s per GB")
    print(f"ratio    {rate['decad'] / rate['raw']:7.2f} (goal: at least 0.55)")
    one_way = size / 1e6 / statistics.median(seconds["fetch"])
    share = one_way / (rate["decad"] / 2)
    print(f"fetch    {one_way:7.0f} MB/s one way, {share:.2f} of the exchange's (goal: at least 0.5)")


if __name__ == "__main__":
    main()
