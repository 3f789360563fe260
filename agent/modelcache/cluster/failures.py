"""Failures in a row of what is asked of the API server: the pauses between the tries, and the log.

Each kind of trouble is told once, not with every try, and that it is over is told too. What fails
and works by turns is told once in a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from modelcache.errors import ClusterError
from modelcache.transfer import delay

log = structlog.get_logger(__name__)

_FIRST_SECONDS: Final = 1.0
_MOST_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 600.0


class Failures:
    """The failures of one thing in a row. For one thread."""

    def __init__(
        self,
        what: str,
        *,
        first: float = _FIRST_SECONDS,
        most: float = _MOST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        **facts: str,
    ) -> None:
        """There were none.

        Args:
            what: what fails, as the log's event names it.
            first, most: seconds of the first and of the longest pause.
            clock: a monotonic one, in seconds.
            facts: told with each line.
        """
        self.count = 0
        """How many there were since it was settled."""
        self._failed, self._recovered = f"{what}.failed", f"{what}.recovered"
        self._first, self._most = first, most
        self._clock = clock
        self._facts = facts
        self._told: tuple[int, str] | None = None
        self._told_at = 0.0
        self._open = False

    def failed(self, error: ClusterError, *, tell: bool = True) -> float:
        """Note one, and tell of it where it is another trouble than the last.

        Returns:
            Seconds until the next try: growing, with jitter, and not less than the server wishes.
        """
        self.count += 1
        pause = delay(self.count, first=self._first, most=self._most, wish=error.retry_after)
        if tell:
            self._tell(error, pause)
        return pause

    def works(self) -> None:
        """Note a success that need not last: the next failure's pause is no shorter for it."""
        if self._open:
            log.info(self._recovered, failures=self.count, **self._facts)
        self._open = False

    def settled(self) -> None:
        """Note that it works for good."""
        self.works()
        self.count = 0
        self._told = None

    def _tell(self, error: ClusterError, pause: float) -> None:
        now = self._clock()
        kind = error.status, error.code
        if kind == self._told and (self._open or now - self._told_at < _AGAIN_SECONDS):
            return
        self._told, self._told_at, self._open = kind, now, True
        log.warning(
            self._failed,
            message=str(error),
            retry_seconds=round(pause, 1),
            **self._facts,
        )
