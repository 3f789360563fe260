"""How fast this process' own fetches go: bytes a second of the last half minute.

Every byte is told of when it comes, so one that stands still slows down at once. What is only seen
in reports, now and then and perhaps late, is `cli.nodes.rates`' matter.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from modelcache.planning.describing import Progress

_WINDOW_SECONDS: Final = 30.0
_LEAST_SECONDS: Final = 2.0
"""Before, a rate says more of buffers than of a connection."""
_STEP_SECONDS: Final = 0.5


class FetchRates:
    """Rates by model, from what was seen of their progress. Safe for threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def look(self, fetching: Mapping[str, Progress]) -> dict[str, float]:
        """Note how far the fetches are that are under way; bytes a second, where it can be told.

        What was on the disk before counts as nothing, and one that stands still as none a second.
        """
        now = self._clock()
        with self._mutex:
            for name in set(self._seen) - set(fetching):
                del self._seen[name]
            for name, progress in fetching.items():
                seen = self._seen.setdefault(name, deque())
                if seen and progress.moved < seen[-1][1]:
                    seen.clear()  # it unpacks now, or began anew
                if not seen or now - seen[-1][0] >= _STEP_SECONDS:
                    seen.append((now, progress.moved))
                # The first may be older, so that something is known of one that is seldom seen.
                while len(seen) > 2 and now - seen[1][0] >= _WINDOW_SECONDS:
                    seen.popleft()
            return {
                name: (fetching[name].moved - seen[0][1]) / (now - seen[0][0])
                for name, seen in self._seen.items()
                if now - seen[0][0] >= _LEAST_SECONDS
            }
