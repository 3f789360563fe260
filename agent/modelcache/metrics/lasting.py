"""How long a counter stays of what is gone: until nobody can miss the last of it.

A counter that ends with its object takes along what it counted since the last scrape; one that
never ends is there for every object that ever was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

LASTING_SECONDS: Final = 3600.0
"""Many scrapes, also where one fails now and then; docs/metrics.md tells of it."""


class Lasting:
    """Names that come and go, each until it has been gone for an hour. Not safe for threads."""

    def __init__(
        self, seconds: float = LASTING_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last: dict[str, float] = {}
        """When each was last there."""

    def see(self, there: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
        """Take in which are there now. Returns those that are new, and those that are over."""
        now = self._clock()
        before = self._last
        found = before | dict.fromkeys(there, now)
        self._last = {name: at for name, at in found.items() if now - at < self._seconds}
        return frozenset(self._last.keys() - before), frozenset(before.keys() - self._last)

    def __iter__(self) -> Iterator[str]:
        """All that are there, or were within the hour, in the order in which they came."""
        return iter(tuple(self._last))
