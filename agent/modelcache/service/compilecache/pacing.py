"""How often somebody may come."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_MOST_REMEMBERED: Final = 1024


class Pace:
    """So many times in so many seconds for each caller. Safe for threads."""

    def __init__(
        self, times: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._times = times
        self._seconds = seconds
        self._clock = clock
        self._mutex = threading.Lock()
        self._came: OrderedDict[str, list[float]] = OrderedDict()

    def allows(self, who: str) -> bool:
        """Whether a caller may come now; where it may, it has come."""
        with self._mutex:
            now = self._clock()
            recent = [at for at in self._came.pop(who, ()) if now - at < self._seconds]
            full = len(recent) >= self._times
            self._came[who] = recent if full else [*recent, now]
            while len(self._came) > _MOST_REMEMBERED:
                self._came.popitem(last=False)
        return not full
