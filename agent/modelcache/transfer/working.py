"""A unit of the engine's work: a file opened or a range of it fetched, and what failures mean."""

from __future__ import annotations

import threading
import time
from functools import partial

from modelcache.errors import (
    AuthFailed,
    Cancelled,
    ChecksumMismatch,
    ModelCacheError,
    NotFound,
    OriginChanged,
    OriginUnavailable,
)
from modelcache.origins.protocol import HttpLocation, LocalLocation, Location
from modelcache.store import Busy, blob_key
from modelcache.transfer.backoff import delay
from modelcache.transfer.buffers import PIECE_BYTES, Buffers
from modelcache.transfer.events import (
    BytesDropped,
    BytesLeft,
    BytesReceived,
    BytesResumed,
    FileStarted,
    HostPaused,
    MirrorFailed,
    Retried,
)
from modelcache.transfer.filefetch import FileFetch, Range
from modelcache.transfer.http import LocationExpired
from modelcache.transfer.jobs import FileTask, Unit, fail, is_retryable
from modelcache.transfer.limiting import Pace
from modelcache.transfer.receiving import Flow, Receiver, WholeFileOnly, reflink
from modelcache.transfer.spending import spending, taken
from modelcache.transfer.tuning import TransferSettings
from modelcache.transfer.ways import Ways

_BUSY_SECONDS = 0.5
_RESUMABLE_BYTES = 4 * PIECE_BYTES
_EXPIRATIONS = 3
_MISMATCHES = 2
_OF_THE_MIRROR = (AuthFailed, NotFound, OriginUnavailable)
_OF_THE_FILE = (AuthFailed, NotFound, OriginChanged, WholeFileOnly)
"""What a mirror may say of one file without being out of order itself: it isn't asked for it again,
and not waited for either."""


class Worker:
    """Does units. One for all threads; jobs and tasks are changed under `condition` only."""

    def __init__(
        self,
        settings: TransferSettings,
        buffers: Buffers,
        condition: threading.Condition,
        ways: Ways,
    ) -> None:
        self._settings = settings
        self._ways = ways
        self._buffers = buffers
        self._condition = condition

    def run(self, unit: Unit, receiver: Receiver, pace: Pace) -> None:
        """Do a unit. What fails is noted in its job; only a defect raises."""
        try:
            self._run(unit, receiver, pace)
        finally:
            spent = taken()
            with self._condition:
                unit.job.request.times.add(spent)

    def _run(self, unit: Unit, receiver: Receiver, pace: Pace) -> None:
        rest: Range | None = None
        task = unit.task
        location: Location | None = None
        try:
            if unit.wanted is None:
                self._open(unit)
                self._go_on(unit)
            if unit.wanted is not None:
                assert task.fetch is not None
                rest = unit.wanted
                try:
                    receiver.position = unit.wanted.start
                    location = unit.way.detour or self._locate(unit, task.fetch)
                    pace.origin = "" if unit.way.mirror else unit.job.request.scheme
                    flow = Flow(unit.job.request.cancel, unit.hear, partial(_received, unit))
                    receiver.receive(task.fetch, unit.wanted, location, flow)
                finally:
                    rest = Range(receiver.position, unit.wanted.end)
            with self._condition:
                self._ways.went_well(unit.way, unit.began, time.monotonic())
            self._finish_if_complete(unit)
        except Busy:
            with self._condition:
                unit.job.reopen(task, time.monotonic() + _BUSY_SECONDS)
        except (ModelCacheError, OSError) as error:
            self._failed(unit, error, location)
        finally:
            if unit.wanted is not None and task.fetch is not None:
                task.fetch.release(unit.wanted, rest)

    def _open(self, unit: Unit) -> None:
        """Take up a file: perhaps it is there already, perhaps a part of it is."""
        task, request = unit.task, unit.job.request
        remote = task.remote
        if self._is_there(unit, fresh=task.not_before > 0):
            return
        claimed = request.ingest.claim(
            blob_key(remote.identity, remote.sha256),
            remote.size,
            resumable=remote.size > _RESUMABLE_BYTES,
        )
        try:
            # Again, now that it is ours: whoever had it may have finished a moment ago.
            if self._is_there(unit, fresh=False):
                claimed.discard()
                return
            location = request.origin.locate(remote) if remote.size else None
            unit.heard = time.monotonic()
            shared = (
                isinstance(location, LocalLocation)
                and not claimed.pieces
                and reflink(location, claimed)
            )
            with spending("disk"):
                request.on_allocated(remote.size if shared else claimed.allocate())
            fetch = FileFetch(
                remote, location, claimed, self._buffers, range_bytes=self._settings.range_bytes
            )
        except BaseException:
            claimed.close()
            raise
        kept = sum(piece.end - piece.start for piece in claimed.pieces)
        request.listener(FileStarted(request.model, remote.path, remote.size, kept))
        if kept:
            request.listener(BytesResumed(request.model, kept))
        with self._condition:
            task.fetch = fetch
            # No more than there is work for, beside our own.
            self._condition.notify(fetch.ranges_left - 1)
        fetch.drain()

    def _go_on(self, unit: Unit) -> None:
        """Have who opened a file fetch its first range, too: of most files there is no other."""
        task, now = unit.task, time.monotonic()
        with self._condition:
            if task.fetch is None or unit.job.over:
                return
            self._ways.went_well(unit.way, unit.began, now)
            self._ways.ended(unit.way)
            way = self._ways.to_fetch(task, now)
            unit.wanted = None if way is None else task.fetch.claim()
            if way is not None and unit.wanted is not None:
                unit.way, unit.began = way, now
            self._ways.began(unit.way)

    def _is_there(self, unit: Unit, *, fresh: bool) -> bool:
        """Whether the store has the file, and so it is done."""
        task, request = unit.task, unit.job.request
        found = request.find(task.remote, fresh)
        if found is None:
            return False
        request.listener(BytesResumed(request.model, task.remote.size))
        request.on_verified(task.remote, found)
        request.on_file(task.remote, found)
        with self._condition:
            unit.job.opened.remove(task)
        return True

    def _locate(self, unit: Unit, fetch: FileFetch) -> Location:
        """The file's location, asked for again when the last one has expired."""
        with unit.task.locating:
            if fetch.location is None:
                fetch.location = unit.job.request.origin.locate(unit.task.remote)
            return fetch.location

    def _finish_if_complete(self, unit: Unit) -> None:
        task, request = unit.task, unit.job.request
        with self._condition:
            if task.fetch is None or task.finishing or not task.fetch.complete:
                return
            task.finishing = True
            fetch = task.fetch
        file = fetch.finish()
        # Noted before the partial file goes: what has no digest at its origin is found by it only.
        request.on_verified(task.remote, file)
        with spending("disk"):
            fetch.partial.finish(request.blob(file.sha256))
        request.on_file(task.remote, file)
        with self._condition:
            unit.job.opened.remove(task)
            task.fetch = None

    # Failures

    def _failed(self, unit: Unit, error: ModelCacheError | OSError, used: Location | None) -> None:
        job, task = unit.job, unit.task
        if job.request.cancel.is_set() or isinstance(error, Cancelled):
            with self._condition:
                fail(job, Cancelled("stopped on request; what was fetched is kept"))
            return
        if isinstance(error, ChecksumMismatch) and task.fetch is not None:
            self._mismatched(unit, error)
            return
        if unit.way.detour is not None and isinstance(error, _OF_THE_MIRROR):
            self._mirror_failed(unit, unit.way.detour, error)
            return
        wait: float | None
        with self._condition:
            now = time.monotonic()
            pause = self._ways.refused(unit.way, error, unit.began, now)
            if isinstance(error, WholeFileOnly) and task.fetch is not None:
                task.fetch.whole_only = True
                wait = 0.0
            elif isinstance(error, LocationExpired):
                wait = self._expired(task, used)
            elif is_retryable(error) and not isinstance(error, OriginChanged):
                wait = self._next_delay(task, error, now)
            else:
                wait = None
            if wait is None:
                if isinstance(error, OSError):
                    error = _disk_failure(error)
                fail(job, error)
            elif task.fetch is None:
                job.reopen(task, now + wait)
            elif wait and task.fetch.partial.contended and task.fetch.in_flight == 1:
                # Another model waits for the same content, perhaps from an origin that is well.
                left = task.fetch.present
                task.fetch.close()
                job.reopen(task, now + max(wait, 2 * _BUSY_SECONDS))
                job.request.listener(BytesLeft(job.request.model, left, task.remote.path))
            else:
                task.not_before = max(task.not_before, now + wait)
            if wait:
                job.failing = True
        if pause is not None and pause.news:
            request = job.request
            request.listener(
                HostPaused(
                    request.model, request.scheme, unit.way.host, pause.seconds, pause.allowed
                )
            )
        if wait:
            self._tell_retry(unit, error, max(wait, pause.seconds if pause else 0.0))

    def _mirror_failed(self, unit: Unit, detour: HttpLocation, error: ModelCacheError) -> None:
        """Leave the mirror for the origin, which goes on where the mirror left off."""
        assert detour.mirror is not None
        with self._condition:
            pause = self._ways.mirrors.failed(detour.mirror, error, time.monotonic())
            if not pause or isinstance(error, _OF_THE_FILE):
                unit.task.barred.add(detour.mirror)
            self._condition.notify_all()
        self._tell_mirror(unit, detour.mirror, error, pause)

    def _tell_mirror(self, unit: Unit, mirror: str, error: ModelCacheError, pause: float) -> None:
        request, path = unit.job.request, unit.task.remote.path
        request.listener(
            MirrorFailed(
                request.model, request.scheme, path, mirror, error.reason, str(error), pause
            )
        )

    def _next_delay(
        self, task: FileTask, error: ModelCacheError | OSError, now: float
    ) -> float | None:
        """Seconds until the next try, 0 when one is planned already, None when it is given up."""
        if task.not_before > now:
            return 0.0  # another range of the same file failed a moment ago
        task.failures += 1
        if task.failures >= self._settings.tries:
            return None
        wish = error.retry_after if isinstance(error, OriginUnavailable) else None
        return delay(
            task.failures,
            first=self._settings.first_delay,
            most=self._settings.most_delay,
            wish=wish,
        )

    def _expired(self, task: FileTask, used: Location | None) -> float | None:
        if task.fetch is None:
            return None
        if task.fetch.location is not used:
            return 0.0  # another range has renewed it
        task.expirations += 1
        task.fetch.location = None
        return 0.0 if task.expirations <= _EXPIRATIONS else None

    def _mismatched(self, unit: Unit, error: ChecksumMismatch) -> None:
        """Throw the file away, and begin it anew, or give up when that was done before."""
        task, request = unit.task, unit.job.request
        assert task.fetch is not None
        task.fetch.partial.discard()
        task.fetch.close()
        request.listener(BytesDropped(request.model, task.remote.size, task.remote.path))
        if task.served_by:
            self._blame_mirrors(unit, error)
            return
        task.mismatches += 1
        wait = delay(
            task.mismatches, first=self._settings.first_delay, most=self._settings.most_delay
        )
        with self._condition:
            unit.job.failing = True
            if task.mismatches > _MISMATCHES:
                fail(unit.job, error)
                return
            unit.job.reopen(task, time.monotonic() + wait)
        self._tell_retry(unit, error, wait)

    def _blame_mirrors(self, unit: Unit, error: ChecksumMismatch) -> None:
        """Some of a file came from mirrors, and it is wrong: now all of it from the origin."""
        task = unit.task
        pauses = {}
        with self._condition:
            for mirror in task.served_by:
                pauses[mirror] = self._ways.mirrors.failed(mirror, error, time.monotonic())
            task.barred |= task.served_by
            unit.job.reopen(task, time.monotonic())
        for mirror, pause in pauses.items():
            self._tell_mirror(unit, mirror, error, pause)

    def _tell_retry(self, unit: Unit, error: ModelCacheError | OSError, wait: float) -> None:
        request = unit.job.request
        if isinstance(error, ModelCacheError):
            request.listener(
                Retried(
                    request.model,
                    request.scheme,
                    unit.task.remote.path,
                    error.reason,
                    str(error),
                    wait,
                )
            )


def _received(unit: Unit, size: int) -> None:
    request, mirror = unit.job.request, unit.way.mirror
    if mirror is not None:
        unit.task.served_by.add(mirror)
    request.listener(
        BytesReceived(request.model, request.scheme, size, unit.task.remote.path, mirror)
    )


def _disk_failure(error: OSError) -> ModelCacheError:
    failure = ModelCacheError(
        f"the cache's disk fails: {error.strerror or error}"
        + (f" ({error.filename})" if error.filename else "")
    )
    failure.__cause__ = error
    return failure
