"""A unit of the engine's work: a file opened or a range of it fetched, and what failures mean."""

from __future__ import annotations

import threading
import time
from functools import partial

from modelcache.errors import (
    AuthFailed,
    Cancelled,
    ChecksumMismatch,
    DiskFailed,
    ModelCacheError,
    NotFound,
    OriginChanged,
    OriginUnavailable,
)
from modelcache.origins.protocol import LocalLocation, Location, RemoteFile
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
        try:
            if unit.wanted is None:
                if unit.fetch is None:
                    self._open(unit)
                else:
                    self._renew(unit, unit.fetch)
                self._go_on(unit)
            if unit.wanted is not None:
                assert unit.fetch is not None
                assert unit.way.location is not None
                rest = unit.wanted
                try:
                    receiver.position = unit.wanted.start
                    pace.origin = "" if unit.way.mirror else unit.job.request.scheme
                    flow = Flow(unit.job.cancel, unit.hear, partial(_received, unit))
                    receiver.receive(unit.fetch, unit.wanted, unit.way.location, flow)
                finally:
                    rest = Range(receiver.position, unit.wanted.end)
                with self._condition:
                    self._ways.went_well(unit.way, unit.began, time.monotonic())
            self._finish_if_complete(unit)
        except Busy:
            with self._condition:
                unit.job.reopen(unit.task, time.monotonic() + _BUSY_SECONDS)
        except (ModelCacheError, OSError) as error:
            self._failed(unit, error)
        finally:
            if unit.wanted is not None and unit.fetch is not None:
                unit.fetch.release(unit.wanted, rest)

    def _open(self, unit: Unit) -> None:
        """Take up a file: perhaps it is there already, perhaps a part of it is."""
        task, request = unit.task, unit.job.request
        remote = task.remote
        if self._is_there(unit, fresh=task.not_before > 0):
            return
        resumable = _is_resumable(remote)
        claimed = request.ingest.claim(
            blob_key(remote.identity, remote.sha256),
            remote.size,
            resumable=resumable,
            owner=request.owner,
        )
        try:
            # Again, now that it is ours: whoever had it may have finished a moment ago.
            if self._is_there(unit, fresh=False):
                claimed.discard()
                return
            location = self._locate(unit) if remote.size else None
            shared = (
                isinstance(location, LocalLocation)
                and not claimed.pieces
                and reflink(location, claimed)
            )
            with spending("disk"):
                took = remote.size if shared else claimed.allocate()
            if resumable:
                request.on_allocated(took)
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
        fetch.hold()
        try:
            with self._condition:
                task.fetch = unit.fetch = fetch
                # No more than there is work for, beside our own.
                self._condition.notify(fetch.ranges_left - 1)
            fetch.drain()
        finally:
            fetch.let_go()

    def _renew(self, unit: Unit, fetch: FileFetch) -> None:
        """Ask where a file is, since what was known of that has expired."""
        try:
            location = self._locate(unit)
            with self._condition:
                fetch.location = location
                unit.task.renewing = False
                self._condition.notify(fetch.ranges_left - 1)
        finally:
            fetch.let_go()

    def _locate(self, unit: Unit) -> Location:
        with spending("origin"):
            location = unit.job.request.origin.locate(unit.task.remote)
        unit.heard = time.monotonic()
        with self._condition:
            self._ways.located(unit.way, location, unit.began, unit.heard)
        return location

    def _go_on(self, unit: Unit) -> None:
        """Have who opened a file fetch its first range, too: of most files there is no other."""
        task, fetch, now = unit.task, unit.fetch, time.monotonic()
        with self._condition:
            if fetch is None or fetch is not task.fetch or unit.job.over or task.not_before > now:
                return
            self._ways.ended(unit.way, unit.began)
            way = self._ways.to_fetch(task, unit.job.request.host, now)
            if way is not None and way.location is not None:
                unit.wanted = fetch.claim()
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
        with spending("disk"):
            request.on_verified(task.remote, found)
            request.on_file(task.remote, found)
        with self._condition:
            unit.job.opened.remove(task)
        return True

    def _finish_if_complete(self, unit: Unit) -> None:
        task, request = unit.task, unit.job.request
        fetch = unit.fetch
        with self._condition:
            if fetch is None or fetch is not task.fetch or task.finishing or not fetch.complete:
                return
            task.finishing = True
        file = fetch.finish()
        with spending("disk"):
            # Before the partial file goes: what has no digest at its origin is found by it only.
            request.on_verified(task.remote, file)
            fetch.partial.finish(request.blob(file.sha256))
            if not _is_resumable(task.remote):
                request.on_allocated(task.remote.size)
            request.on_file(task.remote, file)
        with self._condition:
            unit.job.opened.remove(task)
            task.fetch = None

    # Failures

    def _failed(self, unit: Unit, error: ModelCacheError | OSError) -> None:
        job, task = unit.job, unit.task
        if job.request.cancel.is_set() or isinstance(error, Cancelled):
            with self._condition:
                fail(job, Cancelled("stopped on request; what was fetched is kept"))
            return
        if isinstance(error, ChecksumMismatch) and unit.fetch is not None:
            self._mismatched(unit, unit.fetch, error)
            return
        if unit.way.mirror is not None and isinstance(error, _OF_THE_MIRROR):
            self._mirror_failed(unit, unit.way.mirror, error)
            return
        wait: float | None
        with self._condition:
            now = time.monotonic()
            pause = self._ways.refused(unit.way, error, unit.began, now)
            if unit.way.location is None:
                task.renewing = False
            if isinstance(error, WholeFileOnly) and unit.fetch is not None:
                unit.fetch.whole_only = True
                wait = 0.0
            elif isinstance(error, LocationExpired):
                wait = self._expired(unit)
            elif is_retryable(error) and not isinstance(error, OriginChanged):
                wait = self._next_delay(task, error, now)
            else:
                wait = None
            if wait is None:
                if isinstance(error, OSError):
                    error = _disk_failure(error)
                fail(job, error)
            elif unit.fetch is None:
                job.reopen(task, now + wait)
            elif unit.fetch is not task.fetch:
                pass  # its file is finished, or begun anew
            elif wait and unit.fetch.partial.contended and _is_alone(unit, unit.fetch):
                # Another model waits for the same content, perhaps from an origin that is well.
                left = unit.fetch.present
                unit.fetch.close()
                job.reopen(task, now + max(wait, 2 * _BUSY_SECONDS))
                job.request.listener(BytesLeft(job.request.model, left, task.remote.path))
            else:
                task.not_before = max(task.not_before, now + wait)
            if wait:
                job.failing = True
        if pause is not None and pause.news:
            assert isinstance(error, OriginUnavailable)  # no other asks for one
            request = job.request
            request.listener(
                HostPaused(
                    request.model,
                    request.scheme,
                    unit.way.host,
                    pause.seconds,
                    pause.allowed,
                    error.status,
                    error.reason,
                )
            )
        if wait:
            self._tell_retry(unit, error, max(wait, pause.seconds if pause else 0.0))

    def _mirror_failed(self, unit: Unit, mirror: str, error: ModelCacheError) -> None:
        """Leave the mirror for the origin, which goes on where the mirror left off."""
        with self._condition:
            pause = self._ways.mirrors.failed(mirror, error, time.monotonic())
            if not pause or isinstance(error, _OF_THE_FILE):
                unit.task.barred.add(mirror)
            self._condition.notify_all()
        self._tell_mirror(unit, mirror, error, pause)

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

    def _expired(self, unit: Unit) -> float | None:
        task, fetch = unit.task, unit.fetch
        if fetch is None:
            return None
        if fetch.location is not unit.way.location:
            return 0.0  # another range has noticed it, too
        task.expirations += 1
        fetch.location = None
        return 0.0 if task.expirations <= _EXPIRATIONS else None

    def _mismatched(self, unit: Unit, fetch: FileFetch, error: ChecksumMismatch) -> None:
        """Throw the file away, and begin it anew, or give up when that was done before."""
        task, request = unit.task, unit.job.request
        fetch.partial.discard()
        fetch.close()
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


def _is_resumable(remote: RemoteFile) -> bool:
    """Whether what came of it is kept for the next run; small files are begun anew."""
    return remote.size > _RESUMABLE_BYTES


def _is_alone(unit: Unit, fetch: FileFetch) -> bool:
    """Whether nobody else is at work on a unit's file."""
    return fetch.in_flight == (0 if unit.wanted is None else 1)


def _received(unit: Unit, size: int) -> None:
    request, mirror = unit.job.request, unit.way.mirror
    if mirror is not None:
        unit.task.served_by.add(mirror)
    request.listener(
        BytesReceived(request.model, request.scheme, size, unit.task.remote.path, mirror)
    )


def _disk_failure(error: OSError) -> ModelCacheError:
    failure = DiskFailed(
        f"the cache's disk fails: {error.strerror or error}"
        + (f" ({error.filename})" if error.filename else "")
    )
    failure.__cause__ = error
    return failure
