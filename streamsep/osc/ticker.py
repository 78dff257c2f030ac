"""Something that has to be done again and again, but only while somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Ticker:
    """Calls `work` every `period` s as long as it returns True; `wake` begins it again. Lives in a loop."""

    def __init__(self, period: float, work: Callable[[], bool]) -> None:
        self._period, self._work = period, work
        self._next: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """There may be work again."""
        if self._next is None:
            self._next = asyncio.get_running_loop().call_later(self._period, self._tick)

    def stop(self) -> None:
        """Call `work` no more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _tick(self) -> None:
        self._next = None
        more = True
        try:
            more = self._work()
        finally:  # a fault is the loop's to count; it must not be the last tick
            if more:
                self.wake()
