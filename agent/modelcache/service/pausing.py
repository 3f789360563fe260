"""Pauses after an API server's failures: what is not to be tried now."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from modelcache.cluster.failures import Failures
from modelcache.errors import ClusterError

_MOST_SECONDS: Final = 30.0


class Pause:
    """When to try again. For one thread."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`what` fails, as the log's event names it."""
        self._clock = clock
        self._failures = Failures(what, most=_MOST_SECONDS, clock=clock)
        self._until = float("-inf")

    @property
    def left(self) -> float:
        """Seconds until the next try; 0 for now."""
        return max(0.0, self._until - self._clock())

    def failed(self, error: ClusterError) -> None:
        """Note a failure: the pause grows with each, up to half a minute."""
        self._until = self._clock() + self._failures.failed(error)

    def succeeded(self) -> None:
        """Note a success."""
        self._failures.settled()
