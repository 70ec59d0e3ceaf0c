"""Blocks of a state transfer: different ones from different neighbours at once, whoever of them fails meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from decad.core.blocks import BlockPlan
from decad.daemon.fetch import Donation, FetchPort, PartialBlock
from decad.errors import PeerError


class Download:
    """What one joiner has of the blocks that it fetches; ``came`` hears the bytes of each chunk."""

    def __init__(self, plan: BlockPlan, came: Callable[[int], None] = lambda size: None) -> None:
        self._plan, self._came = plan, came
        self._partial: dict[int, PartialBlock] = {}

    async def fetch(
        self,
        donors: Mapping[str, FetchPort],
        blocks: Iterable[int],
        take: Callable[[int, Donation], Awaitable[None]],
    ) -> list[int]:
        """Fetch ``blocks``; ``take`` gets each as soon as it is whole. Returns those not to be had.

        A donor that fails is asked no more. Another is asked for its block, and sends what of it did not come, if the
        two have the same.
        """
        wanted, idle = list(blocks), list(donors.values())
        under_way: dict[asyncio.Task[Donation], tuple[FetchPort, int]] = {}
        try:
            while under_way or (wanted and idle):
                while wanted and idle:
                    port, block = idle.pop(), wanted.pop()
                    if block not in self._partial:
                        self._partial[block] = PartialBlock(self._plan[block].numel, self._came)
                    fetching = asyncio.create_task(port.fetch(block, self._partial[block]))
                    under_way[fetching] = port, block
                done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for fetched in done:
                    port, block = under_way.pop(fetched)
                    try:
                        donation = fetched.result()
                    except PeerError:
                        wanted.append(block)
                        continue
                    idle.append(port)
                    del self._partial[block]
                    await take(block, donation)
        finally:
            for fetching in under_way:
                fetching.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        return wanted
