"""This machine's present run, and the clock that nobody sets: it goes on while it is suspended."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

JUMP_SECONDS: Final = 60.0
"""A clock on the wall that is ahead by less is not set, but slewed, or looked at a little late."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """What tells this run of the machine from any other (random(4)); empty where it isn't told."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def since_boot() -> float:
    """Seconds since the machine booted, those when it was suspended among them
    (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Jumps:
    """How far a clock was set ahead between two looks at it."""

    def __init__(self, steady: Callable[[], float] = since_boot) -> None:
        """`steady` gives the seconds of a clock that nobody sets."""
        self._steady = steady
        self._ahead: float | None = None

    def look(self, now: float) -> float:
        """Seconds that the clock, which says `now`, was set ahead since the last look; 0: it was
        not, or back."""
        ahead = now - self._steady()
        before, self._ahead = self._ahead, ahead
        jump = 0.0 if before is None else ahead - before
        return jump if jump > JUMP_SECONDS else 0.0
