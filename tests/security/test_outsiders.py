"""What somebody without the run's secret can do to three members that train: nothing that they would notice."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from decad.errors import DecadError
from decad.paths import control_socket
from decad.trust.secret import RunSecrets, new_secret, write_secrets
from security.attacker import Attacker
from security.conftest import BEFORE_S, DURING_S, LEAST_RATE, Honest, Row

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def measured(honest: Honest, row: Row, before: float) -> None:
    row.rate = min(1.0, await honest.rate(DURING_S) / before)
    assert row.rate >= LEAST_RATE, f"{row.rate:.2f} of the step rate"


@pytest.mark.parametrize("who", ["no secret", "another run's secret"])
async def test_without_the_secret(honest: Honest, row: Row, who: str, tmp_path: Path) -> None:
    """40 clients with {who}
    None gets a link; rate as before
    """
    other = tmp_path / "secret"
    write_secrets(other, RunSecrets((new_secret(),), ()), replace=False)
    honest.mix_again()
    before, refused = await honest.rate(BEFORE_S), 0

    async def attack() -> None:
        nonlocal refused
        for number in range(40):
            attacker = Attacker(None if who == "no secret" else other)
            try:
                await attacker.link(honest.addresses[number % 3])
            except DecadError:
                refused += 1
            await attacker.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(attack())
        await measured(honest, row, before)
    assert refused == 40
    row.seen = f"{refused} of 40 refused"


async def test_idle_connections(honest: Honest, row: Row) -> None:
    """3,000 connections that say nothing
    A member still gets in; rate as before
    """
    honest.mix_again()
    before = await honest.rate(BEFORE_S)
    host, port = honest.addresses[0].split(":")
    idle = []
    try:
        for _ in range(3000):
            try:
                idle.append(socket.create_connection((host, int(port)), timeout=1))
            except OSError:
                break
        begun = time.monotonic()
        member = Attacker(honest.secret)
        await member.link(honest.addresses[0])
        took = time.monotonic() - begun
        await member.close()
        await measured(honest, row, before)
    finally:
        for connection in idle:
            connection.close()
    assert took < 5.0
    row.seen = f"{len(idle)} connections; a member got in after {took:.2f} s"


async def test_a_byte_a_second(honest: Honest, row: Row) -> None:
    """100 connections that send a byte a second
    Hung up on; rate as before
    """
    honest.mix_again()
    before = await honest.rate(BEFORE_S)
    host, port = honest.addresses[0].split(":")
    slow = [socket.create_connection((host, int(port)), timeout=1) for _ in range(100)]

    async def trickle() -> None:
        for _ in range(5):
            for connection in slow:
                with suppress(OSError):
                    connection.send(b"\x16")
            await asyncio.sleep(1.0)

    async with asyncio.TaskGroup() as group:
        group.create_task(trickle())
        await measured(honest, row, before)
    for connection in slow:
        connection.close()
    row.seen = "no daemon noticed"


async def test_garbage(honest: Honest, row: Row) -> None:
    """Random bytes, plain HTTP/2, HTTP/1 and half a TLS hello on the port, 300 times
    Hung up on; no daemon ends; rate as before
    """
    honest.mix_again()
    before = await honest.rate(BEFORE_S)
    host, port = honest.addresses[0].split(":")
    greetings = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(100),
    )

    def throw() -> None:
        for number in range(300):
            with socket.create_connection((host, int(port)), timeout=2) as connection, suppress(OSError):
                connection.send((*greetings, os.urandom(200))[number % 4])

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(throw))
        await measured(honest, row, before)
    row.seen = "no daemon noticed"


async def test_another_user(honest: Honest, row: Row) -> None:
    """Another user of the machine asks the control socket for status and stop
    Refused by the system
    """
    if os.getuid():
        pytest.skip("needs root, to become somebody else")
    path = control_socket(honest.daemons[0].state_dir)
    code = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect(sys.argv[1]); print('connected')\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=30
    )
    assert "denied" in done.stdout
    row.seen = done.stdout.strip()
