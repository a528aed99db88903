"""`Budget`: a limited amount, such as memory, that requests share in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque


class Budget:
    """Parts of `limit`, for the tasks of one event loop.

    Parameters
    ----------
    limit : int
        The sum of all parts that are taken at a time.

    Examples
    --------
    >>> async def main():
    ...     budget = Budget(10)
    ...     first = await budget.take(7)
    ...     second = asyncio.ensure_future(budget.take(100))  # more than there ever is: all of it
    ...     await asyncio.sleep(0)
    ...     there = second.done()
    ...     budget.give(first)
    ...     return there, await second
    >>> asyncio.run(main())
    (False, 10)
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, count: int) -> int:
        """Wait for `count`, or for all that there ever is where that is less; gives what was taken."""
        count = min(count, self.limit)
        if not self._waiting and self.taken + count <= self.limit:
            self.taken += count
            return count
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(count)  # its turn had come just before
            else:
                self._waiting.remove((count, turn))
                self.give(0)  # those behind it may fit
            raise
        return count

    def give(self, count: int) -> None:
        """Give back `count`."""
        self.taken -= count
        while self._waiting and self.taken + self._waiting[0][0] <= self.limit:
            count, turn = self._waiting.popleft()
            self.taken += count
            turn.set_result(None)
