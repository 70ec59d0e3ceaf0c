"""The control service: what the command line on this machine asks of the daemon, over a Unix socket."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc

from decad._proto import control_pb2 as pb
from decad._proto import control_pb2_grpc as rpc
from decad.errors import DecadError, StateError
from decad.paths import CONTROL_SOCKET, control_socket, not_private
from decad.wire.numbers import as_uint64


class _Service(rpc.DaemonServicer):
    def __init__(
        self,
        status: Callable[[], pb.StatusReply],
        stop: Callable[[], None],
        save: Callable[[], Awaitable[int]],
        settle: Callable[[], pb.SettleReply],
    ) -> None:
        self._status, self._stop, self._save, self._settle = status, stop, save, settle

    async def Status(self, request: pb.StatusRequest, context: object) -> pb.StatusReply:
        return self._status()

    async def Stop(self, request: pb.StopRequest, context: object) -> pb.StopReply:
        self._stop()
        return pb.StopReply(pid=os.getpid())

    async def Save(
        self, request: pb.SaveRequest, context: grpc.aio.ServicerContext[pb.SaveRequest, pb.SaveReply]
    ) -> pb.SaveReply:
        try:
            return pb.SaveReply(step=as_uint64(await self._save()))
        except DecadError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            raise

    async def Settle(
        self, request: pb.SettleRequest, context: grpc.aio.ServicerContext[pb.SettleRequest, pb.SettleReply]
    ) -> pb.SettleReply:
        try:
            return self._settle()
        except DecadError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            raise


@asynccontextmanager
async def control_service(
    state_dir: Path,
    status: Callable[[], pb.StatusReply],
    stop: Callable[[], None],
    save: Callable[[], Awaitable[int]],
    settle: Callable[[], pb.SettleReply],
) -> AsyncIterator[None]:
    """Serve the daemon of ``state_dir`` while the context lasts; only this user can connect. Raises StateError."""
    path = control_socket(state_dir)
    try:
        os.makedirs(path.parent, mode=0o700, exist_ok=True)
        if path.name != CONTROL_SOCKET and (why := not_private(path.parent)):
            raise StateError(
                f"The control socket would be in {path.parent}, and {why}: whoever that is could stop this daemon, or "
                "pose as it. Choose a directory of your own with --state-dir, with a shorter path."
            )
        # Whoever holds the state directory's lock owns the socket: what is there was left by a killed daemon.
        _remove(path)
        server = grpc.aio.server()
        rpc.add_DaemonServicer_to_server(_Service(status, stop, save, settle), server)
        before = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:{path}")
        finally:
            os.umask(before)
        await server.start()
    except (OSError, RuntimeError) as error:
        raise StateError(
            f"The control socket {path} cannot be made: {error}. Give another directory with --state-dir."
        ) from None
    try:
        yield
    finally:
        await server.stop(grace=0.5)
        _remove(path)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
