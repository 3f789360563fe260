"""When a tree is quiet: it was looked at again and again for a while, and was always the same."""

from __future__ import annotations

import time
from collections.abc import Callable

from modelcache.compilecache.trees.scanning import State


class Quiet:
    """A window in which nothing may change. Two looks at the very least: one look knows nothing.

    A change that came and went between two looks shows, too: each file's ctime is in the state.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`seconds`: for how long the tree has to be the same."""
        self._seconds = seconds
        self._clock = clock
        self._state: State | None = None
        self._since = 0.0

    def look(self, state: State) -> bool:
        """Note how the tree is now.

        Returns:
            Whether it was the same for the whole window.
        """
        now = self._clock()
        if state != self._state:
            self._state, self._since = state, now
            return False
        return now - self._since >= self._seconds

    def reset(self) -> None:
        """Begin anew: what is known of the tree was of another start, or was no whole look."""
        self._state = None

    @property
    def lasted(self) -> float:
        """Seconds for which nothing has changed; 0 before the first look."""
        return 0.0 if self._state is None else self._clock() - self._since
