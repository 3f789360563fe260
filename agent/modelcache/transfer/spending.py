"""What the threads that fetch spend their time on: added up for each thread, nearly for free.

A fetch that spends most of it waiting for the socket is bounded by the origin, or by the way to it;
a faster disk would not help.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

Activity = Literal["origin", "disk", "hash", "limit"]


@dataclass(slots=True)
class Times:
    """Seconds of all threads together: `limit` is waiting because of a bandwidth limit."""

    origin: float = 0.0
    disk: float = 0.0
    hash: float = 0.0
    limit: float = 0.0

    def add(self, other: Times) -> None:
        """Take in another's."""
        self.origin += other.origin
        self.disk += other.disk
        self.hash += other.hash
        self.limit += other.limit

    @property
    def by_activity(self) -> dict[Activity, float]:
        """The same, by name."""
        return {"origin": self.origin, "disk": self.disk, "hash": self.hash, "limit": self.limit}

    @property
    def bounded_by(self) -> Activity | None:
        """What took most of the time; None when nothing took any."""
        most = max(self.by_activity.items(), key=lambda pair: pair[1])
        return most[0] if most[1] > 0 else None


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.times = Times()


_of_thread = _OfThread()


class spending:  # noqa: N801 - read as a word: `with spending("disk"):`
    """A context whose time counts as spent on an activity, by this thread. Don't nest them."""

    __slots__ = ("_activity", "_began")

    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def __enter__(self) -> None:
        self._began = perf_counter()

    def __exit__(self, *_: object) -> None:
        times, spent = _of_thread.times, perf_counter() - self._began
        setattr(times, self._activity, getattr(times, self._activity) + spent)


def taken() -> Times:
    """What this thread has spent since it was last asked."""
    times, _of_thread.times = _of_thread.times, Times()
    return times
