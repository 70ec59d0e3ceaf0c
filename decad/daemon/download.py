"""Blocks of a state transfer: different ones from different neighbours at once, whoever of them fails or lies.

Honest copies of a block differ a little, since each peer mixed with other neighbours. So no hash tells a false one.
Where there are three donors, what one gave is compared on a chunk chosen by chance with what two others have.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping

import torch

from decad.core.blocks import BlockPlan
from decad.daemon.fetch import Donation, FetchPort, PartialBlock
from decad.errors import PeerError, PoisonError

WITNESSES = 2
UNLIKE = 4.0
"""A copy is false that is so many times further from two others than these are from each other."""
ALIKE = 1e-2
"""Copies that are as near, relative to their length, are alike in any case."""
MOST_FAILURES = 3
"""Who failed so often is asked only when nobody else is there."""


class Download:
    """What one joiner has of the blocks that it fetches; ``came`` hears the bytes of each chunk."""

    def __init__(self, plan: BlockPlan, came: Callable[[int], None] = lambda size: None) -> None:
        self._plan, self._came = plan, came
        self._partial: dict[int, PartialBlock] = {}
        self._failures: Counter[str] = Counter()
        """By donor."""

    async def fetch(
        self,
        donors: Mapping[str, FetchPort],
        blocks: Iterable[int],
        take: Callable[[int, Donation], Awaitable[bool]],
    ) -> list[int]:
        """Fetch ``blocks``; ``take`` gets each as soon as it is whole, and says whether it was new enough.

        Returns those not to be had. A donor that fails, or gives what is too old, is asked no more. Another is asked
        for its block, and sends what of it did not come, if the two have the same.
        """
        wanted = list(blocks)
        idle = sorted(
            (d for d in donors if self._failures[d] < MOST_FAILURES), key=lambda d: self._failures[d]
        )
        idle = (idle or list(donors))[::-1]
        under_way: dict[asyncio.Task[Donation], tuple[str, int]] = {}
        try:
            while under_way or (wanted and idle):
                while wanted and idle:
                    donor, block = idle.pop(), wanted.pop()
                    fetching = asyncio.create_task(self._confirmed(donors, donor, block))
                    under_way[fetching] = donor, block
                done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for fetched in done:
                    donor, block = under_way.pop(fetched)
                    try:
                        donation = fetched.result()
                    except PeerError:
                        self._failures[donor] += 1
                        wanted.append(block)
                        continue
                    del self._partial[block]
                    if await take(block, donation):
                        idle.insert(0, donor)
                    else:
                        self._failures[donor] += 1
                        if idle or under_way:
                            wanted.append(block)
        finally:
            for fetching in under_way:
                fetching.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        return wanted

    async def _confirmed(self, donors: Mapping[str, FetchPort], donor: str, block: int) -> Donation:
        """A donor's copy, compared with others' where there are any. Raises PeerError."""
        partial = self._partial.get(block)
        if partial is None:
            partial = self._partial[block] = PartialBlock(self._plan[block].numel, self._came)
        donation = await donors[donor].fetch(block, partial)
        others = [port for name, port in donors.items() if name != donor]
        if len(others) < WITNESSES:
            return donation
        index = random.randrange(len(partial.digests))
        witnesses = [
            seen
            for port in random.sample(others, WITNESSES)
            if (seen := await self._sample(port, block, index)) is not None
        ]
        if len(witnesses) == WITNESSES and _is_false(partial.chunk(index), *witnesses):
            del self._partial[block]
            error = PoisonError(
                f"its copy of block {block} is unlike those of two other peers; it is not used."
            )
            donors[donor].blame(error)
            raise error
        return donation

    async def _sample(self, port: FetchPort, block: int, index: int) -> torch.Tensor | None:
        """One chunk of another donor's copy; None if it cannot give it."""
        partial = PartialBlock(self._plan[block].numel, self._came, only=[index])
        try:
            await port.fetch(block, partial)
        except PeerError:
            return None
        return partial.chunk(index)


def _is_false(given: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether a chunk is unlike two others that are alike; fp32 [elements]."""
    between = torch.linalg.vector_norm(one - other)
    allowed = max(float(UNLIKE * between), ALIKE * float(torch.linalg.vector_norm(one)))
    return all(float(torch.linalg.vector_norm(given - seen)) > allowed for seen in (one, other))
