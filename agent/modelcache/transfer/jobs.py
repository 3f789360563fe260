"""What the engine is asked to do: the files of one model, and which of them comes next."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modelcache.api import ManifestFile
from modelcache.errors import ModelCacheError
from modelcache.origins.protocol import Origin, RemoteFile
from modelcache.store import Ingest
from modelcache.transfer.cancelling import Cancel
from modelcache.transfer.events import Listener
from modelcache.transfer.filefetch import STALLED_SECONDS, FileFetch, Range
from modelcache.transfer.spending import Times
from modelcache.transfer.ways import Way, Ways


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """The files of one model that are to be brought into the store.

    Attributes:
        model: the model's name, for events.
        scheme: the origin's URI scheme, for events.
        origin: where the files are.
        files: those to fetch; no two with the same content.
        ingest: where partial files are.
        blob: the blob's path, from its digest.
        priority: higher is served first.
        cancel: stops it.
        listener: is told what happens, from several threads.
        find: the file as the store has it already, or None. Asked right before a file is opened;
            the second argument is true when another process may have fetched it meanwhile.
        on_allocated: bytes of disk were claimed.
        on_verified: a file came whole, and is what was promised; it gets its blob next, or has it
            already. Called from several threads.
        on_file: a file has its blob. Called from several threads.
        owner: the model that partial files are kept for; empty: that is not noted.
        times: what the connections spent their time on is added to it, under the engine's lock.
    """

    model: str
    scheme: str
    origin: Origin
    files: tuple[RemoteFile, ...]
    ingest: Ingest
    blob: Callable[[str], Path]
    priority: int
    cancel: Cancel
    listener: Listener
    find: Callable[[RemoteFile, bool], ManifestFile | None]
    on_allocated: Callable[[int], None]
    on_verified: Callable[[RemoteFile, ManifestFile], None]
    on_file: Callable[[RemoteFile, ManifestFile], None]
    owner: str = ""
    times: Times = field(default_factory=Times)

    @property
    def host(self) -> str:
        """The host that is asked where files are, as far as the origin tells."""
        return str(getattr(self.origin, "host", ""))


@dataclass(eq=False)
class FileTask:
    """One file of a job. Guarded by the engine's lock."""

    remote: RemoteFile
    fetch: FileFetch | None = None
    not_before: float = 0.0
    failures: int = 0
    mismatches: int = 0
    expirations: int = 0
    finishing: bool = False
    renewing: bool = False
    """Its location has expired, and somebody is asking for another."""
    barred: set[str] = field(default_factory=set)
    """Mirrors that are not asked for it any more."""
    served_by: set[str] = field(default_factory=set)
    """Mirrors that gave parts of what there is of it now."""


@dataclass(eq=False)
class Unit:
    """What one connection is doing: opening a file, or fetching a range of it.

    Attributes:
        wanted: the range; None: a file is to be opened, or located anew where there is a `fetch`.
        fetch: the open file, which stays its own also when the task is begun anew.
    """

    job: Job
    task: FileTask
    wanted: Range | None
    way: Way
    fetch: FileFetch | None = None
    began: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)

    def hear(self) -> None:
        """Bytes came, so all is well."""
        self.heard = time.monotonic()
        self.job.failing = False
        self.job.heard = True
        self.task.failures = self.task.expirations = 0


@dataclass(eq=False)
class Job:
    """A request being served. Guarded by the engine's lock."""

    request: FetchRequest
    sequence: int
    unopened: deque[FileTask] = field(init=False)
    cancel: Cancel = field(init=False)
    """Of this job alone: what goes on stops when the job has failed."""
    deferred: list[FileTask] = field(default_factory=list)
    opened: list[FileTask] = field(default_factory=list)
    units: int = 0
    failing: bool = False
    heard: bool = False
    """Whether any byte has come."""
    error: BaseException | None = None
    finished: threading.Event = field(default_factory=threading.Event)
    woken: threading.Event = field(default_factory=threading.Event)
    """Set when it is finished, or cancelled and soon to be."""

    def __post_init__(self) -> None:
        self.cancel = Cancel(self.request.cancel)
        # Big files first: the small ones then fill what connections are left at the end.
        files = sorted(self.request.files, key=lambda file: -file.size)
        self.unopened = deque(FileTask(file) for file in files)
        self.order = (
            -self.request.priority,
            sum(file.size for file in files),
            self.sequence,
        )

    @property
    def over(self) -> bool:
        """Whether nothing is left to begin."""
        return self.error is not None or not (self.unopened or self.deferred or self.opened)

    def next_unit(self, now: float, most_open: int, ways: Ways) -> Unit | None:
        """What to do next: a file of its own for each connection, then help with the open ones."""
        if self.over:
            return None
        ready = sorted(self._ready(now, ways), key=lambda pair: _in_flight(pair[0]))
        if (not ready or _in_flight(ready[0][0])) and len(self.opened) < most_open:
            way = ways.to_open(self.request.host, now)
            task = self._next_unopened(now) if way else None
            if task is not None and way is not None:
                self.opened.append(task)
                return Unit(self, task, None, way)
        for task, way in ready:
            fetch = task.fetch
            assert fetch is not None
            if way.location is None:
                task.renewing = True
                fetch.hold()
                return Unit(self, task, None, way, fetch)
            wanted = fetch.claim()
            if wanted is not None:
                return Unit(self, task, wanted, way, fetch)
        return None

    def _waiting(self, now: float) -> list[FileTask]:
        """Open files with ranges that nobody is fetching."""
        return [
            task
            for task in self.opened
            if task.fetch is not None and task.not_before <= now and task.fetch.idle
        ]

    def _ready(self, now: float, ways: Ways) -> Iterator[tuple[FileTask, Way]]:
        """Those of which a range may be fetched now, and from where."""
        for task in self._waiting(now):
            way = ways.to_fetch(task, self.request.host, now)
            if way is not None:
                yield task, way

    def has_work(self, now: float, ways: Ways) -> bool:
        """Whether there is something that it does or could do now."""
        if self.units or self.over or any(self._ready(now, ways)):
            return not self.over
        due = bool(self.unopened) or any(task.not_before <= now for task in self.deferred)
        return due and ways.to_open(self.request.host, now) is not None

    def _next_unopened(self, now: float) -> FileTask | None:
        for task in self.deferred:
            if task.not_before <= now:
                self.deferred.remove(task)
                return task
        return self.unopened.popleft() if self.unopened else None

    def reopen(self, task: FileTask, not_before: float) -> None:
        """Begin a file anew, later."""
        task.fetch = None
        task.finishing = task.renewing = False
        task.served_by.clear()
        task.not_before = not_before
        self.opened.remove(task)
        self.deferred.append(task)

    def next_time(self, now: float) -> float | None:
        """When something that waits for its next try is due, in seconds from now."""
        waits = [
            task.not_before - now
            for task in (*self.opened, *self.deferred)
            if task.not_before > now
        ]
        if self._waiting(now):
            # Not to be had for now, for want of buffers.
            waits.append(STALLED_SECONDS)
        return min(waits, default=None)


def _in_flight(task: FileTask) -> int:
    assert task.fetch is not None
    return task.fetch.in_flight


def fail(job: Job, error: BaseException) -> None:
    """Give a job up. The first error is the one that counts."""
    if job.error is None:
        job.error = error


def is_retryable(error: BaseException) -> bool:
    """Whether trying again may help."""
    return isinstance(error, ModelCacheError) and error.retryable


def distinct(files: Iterable[RemoteFile]) -> dict[str, list[RemoteFile]]:
    """Files by content: those that are known to be the same stand together."""
    grouped: dict[str, list[RemoteFile]] = {}
    for file in files:
        key = f"sha256:{file.sha256}" if file.sha256 else file.identity
        grouped.setdefault(key, []).append(file)
    return grouped
