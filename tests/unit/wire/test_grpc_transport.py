"""What only the real transport meets: other processes, other programs, other protocols, bad addresses."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from decad.errors import LinkClosed, NetworkError
from decad.wire import grpc_acceptor
from decad.wire.grpc_options import NONCE_KEY, SERVICE
from decad.wire.grpc_transport import GrpcTransport
from decad.wire.limits import MAX_MESSAGE_BYTES
from decad.wire.transport import Link, OnLink

PATIENCE_S = 5.0
ROOT = Path(__file__).parents[3]

DIALLER = """
import asyncio, sys, uvloop
from decad.wire.grpc_transport import GrpcTransport
async def main():
    link = await GrpcTransport().dial(sys.argv[1], 10)
    await link.control.send(b"here")
    await asyncio.Event().wait()
uvloop.run(main())
"""


@pytest.fixture
async def transport() -> AsyncIterator[GrpcTransport]:
    transport = GrpcTransport()
    yield transport
    await transport.close()


@pytest.fixture
def links() -> asyncio.Queue[Link]:
    return asyncio.Queue()


@pytest.fixture
async def address(transport: GrpcTransport, links: asyncio.Queue[Link]) -> str:
    return await transport.listen("127.0.0.1:0", keep(links))


def keep(links: asyncio.Queue[Link]) -> OnLink:
    async def on_link(link: Link) -> None:
        links.put_nowait(link)
        while True:
            await link.control.receive()

    return on_link


async def greet(transport: GrpcTransport, address: str) -> None:
    link = await transport.dial(address, PATIENCE_S)
    await link.close()


async def test_a_killed_process_closes_the_link_quickly(transport: GrpcTransport) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def on_link(link: Link) -> None:
        heard.put_nowait(str(await link.control.receive(), "utf-8"))
        try:
            await link.control.receive()
        except LinkClosed as error:
            heard.put_nowait(str(error))

    address = await transport.listen("127.0.0.1:0", on_link)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DIALLER, address, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        async with asyncio.timeout(30):
            assert await heard.get() == "here"
        process.send_signal(signal.SIGKILL)
        async with asyncio.timeout(1):
            assert "127.0.0.1:" in await heard.get()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200,
        bytes(range(256)) * 40,
    ],
    ids=["http", "tls", "broken-http2", "bytes"],
)
async def test_garbage_on_the_port_disturbs_nobody(
    transport: GrpcTransport, address: str, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(garbage)
    await greet(transport, address)
    writer.close()
    try:
        await reader.read()
        await writer.wait_closed()
    except ConnectionError:
        pass
    await greet(transport, address)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.fixture
async def raw(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


def open_stream(channel: grpc.aio.Channel, name: str, nonce: str) -> grpc.aio.StreamStreamCall[bytes, bytes]:
    method = channel.stream_stream(f"/{SERVICE}/{name}", None, None)
    metadata = grpc.aio.Metadata((NONCE_KEY, nonce))
    call: grpc.aio.StreamStreamCall[bytes, bytes] = method(None, metadata=metadata)
    return call


async def test_a_link_of_two_streams_is_dropped(
    raw: grpc.aio.Channel, links: asyncio.Queue[Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_acceptor, "ASSEMBLY_S", 0.1)
    nonce = secrets.token_hex(16)
    calls = [open_stream(raw, name, nonce) for name in ("Control", "Fetch")]
    async with asyncio.timeout(PATIENCE_S):
        assert [await call.code() for call in calls] == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2
    assert links.empty()


async def test_streams_with_different_nonces_make_no_link(
    raw: grpc.aio.Channel, links: asyncio.Queue[Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_acceptor, "ASSEMBLY_S", 0.1)
    calls = [open_stream(raw, name, secrets.token_hex(16)) for name in ("Control", "Blocks", "Fetch")]
    async with asyncio.timeout(PATIENCE_S):
        assert {await call.code() for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert links.empty()


@pytest.mark.parametrize("nonce", ["", "short"])
async def test_a_stream_without_a_proper_nonce_is_refused(raw: grpc.aio.Channel, nonce: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        assert await open_stream(raw, "Control", nonce).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_same_stream_twice_is_refused(raw: grpc.aio.Channel) -> None:
    nonce = secrets.token_hex(16)
    calls = [open_stream(raw, "Control", nonce) for _ in range(2)]
    async with asyncio.timeout(PATIENCE_S):
        assert grpc.StatusCode.INVALID_ARGUMENT in [await call.code() for call in calls]


async def test_a_message_over_the_limit_ends_the_link(
    raw: grpc.aio.Channel, links: asyncio.Queue[Link]
) -> None:
    nonce = secrets.token_hex(16)
    calls = {name: open_stream(raw, name, nonce) for name in ("Control", "Blocks", "Fetch")}
    async with asyncio.timeout(PATIENCE_S):
        accepted = await links.get()
        receiving = asyncio.create_task(accepted.blocks.receive())
        await calls["Blocks"].write(bytes(MAX_MESSAGE_BYTES + 1))
        with pytest.raises(LinkClosed):
            await receiving


async def test_links_over_the_bound_are_refused_until_one_ends(
    transport: GrpcTransport, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_acceptor, "MAX_ACCEPTED_LINKS", 2)
    kept = [await transport.dial(address, PATIENCE_S) for _ in range(2)]
    with pytest.raises(LinkClosed, match="takes no more links"):
        await transport.dial(address, PATIENCE_S)
    await kept[0].close()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await transport.dial(address, PATIENCE_S)
                break
            except LinkClosed:
                await asyncio.sleep(0)


async def test_ipv6(transport: GrpcTransport, links: asyncio.Queue[Link]) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    address = await transport.listen("[::1]:0", keep(links))
    assert address.startswith("[::1]:")
    dialled = await transport.dial(address, PATIENCE_S)
    await dialled.control.send(b"over six")
    async with asyncio.timeout(PATIENCE_S):
        assert (await links.get()).address.startswith("[::1]:")


async def test_a_host_name(transport: GrpcTransport, address: str) -> None:
    await greet(transport, address.replace("127.0.0.1", "localhost"))


@pytest.mark.parametrize(
    "address", ["", "nowhere", "unix:/tmp/x", "host:port", "::1:80", "no such host:80", "a%zz/../b:80", ":80"]
)
async def test_an_address_that_cannot_be(transport: GrpcTransport, address: str) -> None:
    with pytest.raises(LinkClosed):
        await transport.dial(address, PATIENCE_S)


async def test_somebody_who_never_answers_is_given_up(transport: GrpcTransport) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(LinkClosed, match=r"no answer within 0\.2 s"):
        await transport.dial(f"127.0.0.1:{silent.getsockname()[1]}", 0.2)


async def test_another_grpc_server_is_not_a_peer(transport: GrpcTransport) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(LinkClosed, match="not a decad peer"):
            await transport.dial(f"127.0.0.1:{port}", PATIENCE_S)
    finally:
        await server.stop(None)


async def test_a_web_server_is_not_a_peer(transport: GrpcTransport) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    web = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with web:
        port = web.sockets[0].getsockname()[1]
        with pytest.raises(LinkClosed, match=r"not a decad peer|gone"):
            await transport.dial(f"127.0.0.1:{port}", PATIENCE_S)


async def test_an_address_of_another_machine_cannot_be_listened_on(
    transport: GrpcTransport, links: asyncio.Queue[Link]
) -> None:
    with pytest.raises(NetworkError, match=r"192\.0\.2\.1:0: cannot assign requested address"):
        await transport.listen("192.0.2.1:0", keep(links))


@pytest.mark.parametrize("broken", [True, False])
def test_grpc_logs_faults_but_not_broken_connections(broken: bool, caplog: pytest.LogCaptureFixture) -> None:
    error: type[Exception] = type("ExecuteBatchError" if broken else "KeyError", (Exception,), {})
    try:
        raise error("of a servicer method")
    except error:
        logging.getLogger("grpc._cython.cygrpc").exception("raised by servicer method")
    assert bool(caplog.records) is not broken
