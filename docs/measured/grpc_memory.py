"""What grpc.aio keeps of connections whose other end is killed: python grpc_memory.py [ROUNDS]."""

import asyncio
import contextlib
import ctypes
import multiprocessing
import sys

import grpc
import grpc.aio
import psutil


def serve(port):
    async def echo(requests, context):
        async for message in requests:
            yield message

    async def main():
        method = grpc.stream_stream_rpc_method_handler(echo)
        server = grpc.aio.server(handlers=(grpc.method_handlers_generic_handler("s", {"m": method}),))
        port.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(main())


async def main(rounds):
    spawn, process = multiprocessing.get_context("spawn"), psutil.Process()
    for number in range(rounds + 1):
        if number % (rounds // 10) == 0:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            print(
                f"{grpc.__version__}  round {number:5d}  resident {process.memory_info().rss / 1e6:.2f} MB",
                flush=True,
            )
        here, there = spawn.Pipe()
        server = spawn.Process(target=serve, args=(there,))
        server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{here.recv()}") as channel:
            call = channel.stream_stream("/s/m")()
            await call.write(b"x" * 100_000)
            await call.read()
            server.kill()
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call.read()
        server.join()
        here.close(), there.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
