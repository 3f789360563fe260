"""Stopping: a flag that wakes everything that waits, sockets included."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from modelcache.errors import Cancelled


class Cancel:
    """Set once, from any thread. Setting a parent sets its children."""

    def __init__(self, parent: Cancel | None = None) -> None:
        self.event = threading.Event()
        self._mutex = threading.Lock()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._keys = count()
        self._parent = parent
        if parent is not None:
            self._key = parent.add(self.set)

    def set(self) -> None:
        """Cancel: waits end, and callbacks run in this thread."""
        with self._mutex:
            self.event.set()
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()

    def is_set(self) -> bool:
        """Whether it is cancelled."""
        return self.event.is_set()

    def check(self) -> None:
        """Raise `Cancelled` if it is."""
        if self.event.is_set():
            raise Cancelled("stopped on request; what was fetched is kept")

    def wait(self, seconds: float) -> None:
        """Sleep, and raise `Cancelled` as soon as it is cancelled."""
        self.event.wait(seconds)
        self.check()

    def close(self) -> None:
        """Let the parent forget this one."""
        if self._parent is not None:
            self._parent.remove(self._key)

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Have `callback` called on cancellation, as long as the block lasts."""
        key = self.add(callback)
        try:
            yield
        finally:
            self.remove(key)

    def add(self, callback: Callable[[], None]) -> int:
        """Have `callback` called on cancellation; the key is for `remove`."""
        with self._mutex:
            if not self.event.is_set():
                key = next(self._keys)
                self._callbacks[key] = callback
                return key
        callback()
        return -1

    def remove(self, key: int) -> None:
        """Don't call it any more."""
        with self._mutex:
            self._callbacks.pop(key, None)
