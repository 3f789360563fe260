"""What the failure of a unit of the engine's work means: for it, its file, its job, its host."""

from __future__ import annotations

import threading
import time

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
from modelcache.transfer.answers import LocationExpired
from modelcache.transfer.backoff import delay
from modelcache.transfer.events import BytesDropped, BytesLeft, HostPaused, MirrorFailed, Retried
from modelcache.transfer.filefetch import FileFetch
from modelcache.transfer.jobs import FileTask, Unit, fail, is_retryable
from modelcache.transfer.receiving import WholeFileOnly
from modelcache.transfer.tuning import TransferSettings
from modelcache.transfer.ways import Ways

BUSY_SECONDS = 0.5
"""Until it is looked again whether who has a file is done with it."""
_EXPIRATIONS = 3
_MISMATCHES = 2
_OF_THE_MIRROR = (AuthFailed, NotFound, OriginUnavailable)
_OF_THE_FILE = (AuthFailed, NotFound, OriginChanged, WholeFileOnly)
"""What a mirror may say of one file without being out of order itself: it isn't asked for it again,
and not waited for either."""


class Failures:
    """Judges what failed. One for all threads; listeners are told without `condition`."""

    def __init__(
        self, settings: TransferSettings, condition: threading.Condition, ways: Ways
    ) -> None:
        """Jobs and tasks are changed under `condition` only."""
        self._settings = settings
        self._condition = condition
        self._ways = ways

    def judge(self, unit: Unit, error: ModelCacheError | OSError) -> None:
        """Note what has failed in the unit's job: a next try, the origin in place of a mirror, the
        file begun anew, or the end of the job."""
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
        left = 0
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
                job.reopen(task, now + max(wait, 2 * BUSY_SECONDS))
            else:
                task.not_before = max(task.not_before, now + wait)
            if wait:
                job.failing = True
        if left:
            job.request.listener(BytesLeft(job.request.model, left, task.remote.path))
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


def _is_alone(unit: Unit, fetch: FileFetch) -> bool:
    """Whether nobody else is at work on a unit's file."""
    return fetch.in_flight == (0 if unit.wanted is None else 1)


def _disk_failure(error: OSError) -> ModelCacheError:
    failure = DiskFailed(
        f"the cache's disk fails: {error.strerror or error}"
        + (f" ({error.filename})" if error.filename else "")
    )
    failure.__cause__ = error
    return failure
