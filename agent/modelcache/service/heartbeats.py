"""Named, guarded tasks: the daemon's loops, each in a thread of its own.

A cycle that fails is logged, and the loop goes on until it is told to end. Each loop shows that it
is alive; `/livez` says whether all of them are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from modelcache.errors import Cancelled
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 1.0


class Task:
    """One loop. `cycle` does one round and says in how many seconds it wants the next."""

    def __init__(self, name: str, cycle: Callable[[], float | None], *, late_after: float) -> None:
        """`late_after`: seconds after which a round that has not ended counts as hung."""
        self.name = name
        self._cycle = cycle
        self._late_after = late_after
        self._beat = time.monotonic()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, cancel: Cancel) -> None:
        """Begin, until `cancel` is set."""
        cancel.add(self._wake.set)
        self._thread = threading.Thread(target=self._run, args=(cancel,), name=self.name)
        self._thread.daemon = True
        self._thread.start()

    def wake(self) -> None:
        """Have the next round at once."""
        self._wake.set()

    def join(self, seconds: float) -> bool:
        """Wait for the end; whether it came in time."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    @property
    def late(self) -> bool:
        """Whether it has shown no sign of life for too long."""
        return time.monotonic() - self._beat > self._late_after

    def _run(self, cancel: Cancel) -> None:
        while not cancel.is_set():
            self._wake.clear()
            self._beat = time.monotonic()
            try:
                wait = self._cycle()
            except Cancelled:
                wait = None
            except Exception:
                # The loop's outermost line: whatever went wrong in one round, the next may go well.
                log.exception("task.failed", task=self.name)
                wait = _PAUSE_SECONDS
            self._beat = time.monotonic()
            most = self._late_after / 3
            self._wake.wait(most if wait is None else max(0.0, min(wait, most)))
