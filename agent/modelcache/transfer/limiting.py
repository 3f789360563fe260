"""Limits on bytes in a time, shared by all transfers of a process."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping

from modelcache.transfer.cancelling import Cancel
from modelcache.transfer.spending import spending


class Bandwidth:
    """A token bucket: at most `rate` bytes a second on average, with bursts of a tenth of that.

    `rate` None is no limit.

    Attributes:
        sip: so many bytes at most are to be received before they are taken: those of a hundredth of
            a second. So what all connections have received and not taken yet stays little, and none
            of them waits for so long that it would seem silent.
    """

    def __init__(self, rate: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self.sip = sys.maxsize if rate is None else max(1, int(rate / 100))
        self._clock = clock
        self._mutex = threading.Lock()
        self._free_at = clock()

    def take(self, size: int, cancel: Cancel) -> None:
        """Wait until `size` bytes may pass.

        Raises:
            Cancelled
        """
        if self._rate is None:
            return
        with self._mutex:
            now = self._clock()
            self._free_at = max(self._free_at, now - 0.1) + size / self._rate
            delay = self._free_at - now
        if delay > 0:
            with spending("limit"):
                cancel.wait(delay)


class Pace:
    """The limits that one connection keeps to: that of all, and that of its origin.

    Attributes:
        origin: the scheme of the origin that it is busy with; empty: none whose limit counts.
    """

    def __init__(self, everything: Bandwidth, origins: Mapping[str, Bandwidth]) -> None:
        self._everything = everything
        self._origins = origins
        self.origin = ""

    @property
    def sip(self) -> int:
        """Bytes to be received at most before they are taken."""
        own = self._origins.get(self.origin)
        return self._everything.sip if own is None else min(own.sip, self._everything.sip)

    def take(self, size: int, cancel: Cancel) -> None:
        """Wait until `size` bytes may pass.

        Raises:
            Cancelled
        """
        own = self._origins.get(self.origin)
        if own is not None:
            own.take(size, cancel)
        self._everything.take(size, cancel)
