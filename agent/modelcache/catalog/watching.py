"""Noticing that a catalog may have changed: by inotify where it works, by polling everywhere.

Directories are watched, not files: an editor and `kubectl cp` replace a file by renaming another
over it, and kubelet swaps a ConfigMap's link `..data`. inotify sees nothing of what another node
writes to a network file system, and its watches are few on some nodes; so it polls besides.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import structlog
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

_QUIET_SECONDS: Final = 0.1  # a save is several events, and a copy many
_LONGEST_WAIT_SECONDS: Final = 1.0  # in a directory where something always happens
_MOST_LINKS: Final = 40  # as the kernel has it (path_resolution(7))

# Not the opening and closing of files that are read: reading the catalog would call for another.
_EVENTS: Final[list[type[FileSystemEvent]]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]

_Identity: TypeAlias = tuple[int, int]

_log = structlog.get_logger(__name__)


class CatalogWatch:
    """Calls `on_change` when the catalog may have changed, at least every `poll_seconds`.

    The calls come one at a time from a thread of its own, the first after `poll_seconds` or the
    first change: whoever starts a watch reads the catalog once after that. `on_change` may not
    raise: the thread would end.
    """

    def __init__(
        self,
        path: Path,
        on_change: Callable[[], None],
        poll_seconds: float = 10.0,
        *,
        what: str = "the catalog",
    ) -> None:
        """`what`: how the log calls it."""
        self._path = path
        self._on_change = on_change
        self._poll_seconds = poll_seconds
        self._wakened = threading.Event()
        self._stopping = False
        self._watches = _Watches(self._wakened, what)
        self._thread = threading.Thread(target=self._run, name="catalog-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch. What changes after this returns is noticed."""
        self._watches.follow(self._path)
        self._thread.start()

    def stop(self) -> None:
        """End it and wait for a call in progress. Idempotent."""
        self._stopping = True
        self._wakened.set()
        if self._thread.is_alive():
            self._thread.join()
        self._watches.close()

    def _run(self) -> None:
        while not self._stopping:
            if self._wakened.wait(self._poll_seconds):
                self._settle()
            if self._stopping:
                return
            # First the watches: what changes once they stand wakes this thread again.
            self._watches.follow(self._path)
            self._on_change()

    def _settle(self) -> None:
        """Wait until nothing has happened for a moment."""
        deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
        while not self._stopping and time.monotonic() < deadline:
            self._wakened.clear()
            if not self._wakened.wait(_QUIET_SECONDS):
                return
        self._wakened.clear()


class _Watches(FileSystemEventHandler):
    """The inotify watches on every directory whose change may change the catalog."""

    def __init__(self, wakened: threading.Event, what: str) -> None:
        self._wakened = wakened
        self._what = what
        self._observer: BaseObserver | None = None
        self._watched: dict[str, tuple[_Identity, ObservedWatch]] = {}
        self._lost: set[str] = set()
        self._complaint = ""

    def on_any_event(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.src_path)
        if path in self._watched and isinstance(event, FileDeletedEvent | DirDeletedEvent):
            self._lost.add(path)
        self._wakened.set()

    def follow(self, path: Path) -> None:
        """Watch the directories that matter now: links may lead elsewhere than before."""
        try:
            wanted = {str(d): _identity(d) for d in directories(path)}
            self._update(wanted)
        except OSError as error:
            # A limit of inotify (EMFILE, ENOSPC), or a directory that is gone.
            self._complain(os.strerror(error.errno) if error.errno else str(error))
        else:
            self._complain("")

    def close(self) -> None:
        """Give all watches back."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None
        self._watched.clear()

    def _update(self, wanted: dict[str, _Identity]) -> None:
        if self._observer is None:
            observer = Observer()
            observer.start()
            self._observer = observer
        for path, (identity, watch) in list(self._watched.items()):
            if wanted.get(path) != identity or path in self._lost:
                del self._watched[path]
                self._lost.discard(path)
                self._observer.unschedule(watch)
        for path, identity in wanted.items():
            if path not in self._watched:
                watch = self._observer.schedule(self, path, event_filter=_EVENTS)
                self._watched[path] = (identity, watch)

    def _complain(self, reason: str) -> None:
        if reason and reason != self._complaint:
            _log.warning("files.only_polled", what=self._what, message=reason)
        elif self._complaint and not reason:
            _log.info("files.watched_again", what=self._what)
        self._complaint = reason


def _identity(directory: Path) -> _Identity:
    status = directory.stat()
    return status.st_dev, status.st_ino


def directories(path: Path) -> set[Path]:
    """The directory of the catalog, and those that hold a link on the way to it.

    Raises:
        OSError: the path leads nowhere, or in a circle.
    """
    found: set[Path] = set()
    here = Path("/")
    rest = deque((Path.cwd() / path).parts[1:])
    links = 0
    while rest:
        step = rest.popleft()
        if step == "..":
            here = here.parent
            continue
        there = here / step
        if there.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                there.stat()  # raises ELOOP
                break
            found.add(here)
            target = there.readlink()
            if target.is_absolute():
                here = Path("/")
            rest.extendleft(reversed([part for part in target.parts if part != "/"]))
        else:
            here = there
    found.add(here if here.is_dir() else here.parent)
    return found
