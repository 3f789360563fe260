"""Which other agents keep this root at this moment, as where a rolling update overlaps.

Two of them do no harm to what is there, but each would take for unwanted what only the other was
told to fetch. So each holds a lock file of its own, which says who it is; the kernel lets go of it
when its holder dies, however it does.

    ingest/agents/<random>.lock
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from modelcache.store.layout import Layout
from modelcache.store.locking import Lock, try_lock
from modelcache.store.notes import read_note
from modelcache.store.paths import children

_MOST_BYTES = 200
_AGAIN_SECONDS = 0.02
_TRIES = 50
_LEAVE_SECONDS = 1.0


class Companions:
    """The agents of one root, of which this process may be one. Safe for threads."""

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.agents
        self._path = self._folder / f"{secrets.token_hex(6)}.lock"
        self._lock: Lock | None = None
        self._looks = threading.Lock()
        self._changes = threading.Lock()

    def join(self) -> None:
        """From now on others see this one. On a disk that is full nobody does."""
        with self._changes:
            self._join()

    def leave(self) -> None:
        """It ends. Where it is held up by a disk that hangs, the process's end does the same."""
        if self._changes.acquire(timeout=_LEAVE_SECONDS):
            try:
                self._leave()
            finally:
                self._changes.release()

    def attend(self, is_down: Callable[[], bool]) -> None:
        """The disk is in another state: be here, or hold nothing open on one that is down.

        It waits for the disk, and so belongs in a thread of its own.
        """
        with self._changes:
            if is_down():
                self._leave()
            else:
                self._join()

    def _join(self) -> None:
        if self._lock is not None:
            return
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            for _ in range(_TRIES):
                self._lock = try_lock(self._path)
                if self._lock is not None:
                    who = f"process {os.getpid()} of {socket.gethostname()}"
                    self._path.write_text(who)
                    return
                time.sleep(_AGAIN_SECONDS)  # another looks whether it is held

    def _leave(self) -> None:
        if self._lock is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def others(self) -> tuple[str, ...]:
        """Which other agents are at work here, each in some words.

        None for who is no agent itself. Where locks do nothing it isn't known.
        """
        if self._lock is None:
            return ()
        # One at a time: a lock that is taken to see whether it is held is held.
        with self._looks:
            return self._alive()

    def _alive(self) -> tuple[str, ...]:
        found = []
        try:
            there = children(self._folder)
        except OSError:
            return ()  # a disk that fails is looked after elsewhere
        for path in there:
            if path == self._path or path.suffix != ".lock":
                continue
            try:
                lock = try_lock(path)
                if lock is not None:
                    lock.release(remove=True)  # it died
                    continue
            except OSError:
                continue  # somebody else's, or gone
            found.append(_said(path))
        return tuple(sorted(found))


def _said(path: Path) -> str:
    said = b""
    with suppress(OSError, ValueError):
        said = read_note(path, _MOST_BYTES, beginning=True)
    told = "".join(c for c in said.decode("utf-8", "replace") if c.isprintable())
    return told or "another process"
