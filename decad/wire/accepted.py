"""The tasks that serve accepted links, the same for both transports."""

from __future__ import annotations

import asyncio
import logging

from decad.errors import DecadError
from decad.wire.transport import Link, OnLink

log = logging.getLogger(__name__)


class AcceptedLinks:
    """Runs ``on_link`` for each accepted link and ends the link with it."""

    def __init__(self, on_link: OnLink) -> None:
        self._on_link = on_link
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, link: Link) -> None:
        """Serve ``link`` until ``on_link`` is done with it."""
        task = asyncio.get_running_loop().create_task(self._serve(link), name=f"link from {link.address}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def close(self, patience: float) -> None:
        """Wait ``patience`` seconds for the tasks, whose links have been closed, then cancel the rest."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _serve(self, link: Link) -> None:
        try:
            await self._on_link(link)
        except DecadError as error:
            log.info("link from %s ended: %s", link.address, error)
        finally:
            await link.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler(
                {"message": f"{task.get_name()} failed", "exception": error, "task": task}
            )
