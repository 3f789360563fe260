"""The engine: moves the bytes of many files of many models over a bounded number of connections.

Jobs are served in order of priority, small ones first within one priority. Each connection takes
the next thing to do: open another file of the job, or a range of one that is open; so many files
are fetched a connection each, and one big file by all of them.

One job never holds up another: as long as others have work, a job leaves them connections; a
connection that has been silent for some seconds doesn't count against the limit, so another takes
its place; a file whose origin fails waits for its next try without a connection; and a job whose
last try failed, or that has a silent connection, gets no second one until bytes come.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial
from itertools import count

import structlog

from modelcache.errors import (
    Cancelled,
    ChecksumMismatch,
    ModelCacheError,
    OriginChanged,
    OriginUnavailable,
)
from modelcache.origins.protocol import LocalLocation, Location
from modelcache.store import Busy, blob_key
from modelcache.transfer.backoff import delay
from modelcache.transfer.buffers import PIECE_BYTES, Buffers
from modelcache.transfer.events import BytesDropped, BytesReceived, BytesResumed, Retried
from modelcache.transfer.filefetch import FileFetch, Range
from modelcache.transfer.http import HttpClient, LocationExpired
from modelcache.transfer.jobs import FetchRequest, FileTask, Job, Unit, fail, is_retryable
from modelcache.transfer.limiting import Bandwidth
from modelcache.transfer.receiving import Flow, Receiver, WholeFileOnly, reflink

log = structlog.get_logger(__name__)

_QUIET_SECONDS = 3.0
_BUSY_SECONDS = 0.5
_ABANDON_SECONDS = 0.8
_MOST_THREADS = 64
_RESUMABLE_BYTES = 4 * PIECE_BYTES
_EXPIRATIONS = 3
_MISMATCHES = 2


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How hard to pull.

    Attributes:
        connections: how many fetch at once. More than 4 to 8 gain little on one node.
        range_bytes: one request's bytes; a power of two, at most 16 MiB.
        spare_buffers: mebibytes kept in memory for digests that wait for their turn.
        bandwidth: bytes a second for all together; None is no limit.
        tries: failures in a row, without a byte in between, after which a file's fetch is given up.
        first_delay, most_delay: seconds between tries, at first and at most.
        read_timeout: seconds of silence after which a connection is given up.
    """

    connections: int = 8
    range_bytes: int = 8 * PIECE_BYTES
    spare_buffers: int = 64
    bandwidth: float | None = None
    tries: int = 6
    first_delay: float = 0.5
    most_delay: float = 30.0
    read_timeout: float = 20.0


class Engine:
    """Connections that serve `fetch` requests. Safe for threads."""

    def __init__(self, settings: TransferSettings | None = None) -> None:
        self._settings = settings or TransferSettings()
        self._buffers = Buffers(self._settings.spare_buffers)
        self._bandwidth = Bandwidth(self._settings.bandwidth)
        self._http = HttpClient(read_timeout=self._settings.read_timeout)
        self._condition = threading.Condition()
        self._jobs: list[Job] = []
        self._units: set[Unit] = set()
        self._sequence = count()
        self._closed = False
        self._threads = 0
        self._resting = 0

    def close(self) -> None:
        """Let the threads end. Requests in progress are not waited for."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._http.close()

    def fetch(self, request: FetchRequest) -> None:
        """Serve a request; returns when every file has its blob.

        Raises:
            Cancelled: within a second. What was fetched is kept.
            ModelCacheError: the first error that made it give up. What was fetched is kept.
        """
        job = Job(request, next(self._sequence))
        with request.cancel.calling(self._wake):
            with self._condition:
                self._jobs.append(job)
                self._end_if_over(job)
                self._keep_one_in_reserve()
                self._condition.notify_all()
            while not job.finished.wait(0.1 if request.cancel.is_set() else None):
                with self._condition:
                    fail(job, Cancelled("stopped on request; what was fetched is kept"))
                    self._end_if_over(job)
                if job.finished.wait(_ABANDON_SECONDS):
                    break
                raise Cancelled("stopped on request; a connection that hangs was left behind")
        if job.error is not None:
            raise job.error

    def _wake(self) -> None:
        """A job was cancelled: whoever waits looks again."""
        with self._condition:
            for job in self._jobs:
                if job.request.cancel.is_set():
                    fail(job, Cancelled("stopped on request; what was fetched is kept"))
                    self._end_if_over(job)
            self._condition.notify_all()

    # The threads

    def _keep_one_in_reserve(self) -> None:
        """Have a thread that rests, so that there is always one to replace those that hang."""
        if self._resting == 0 and self._threads < _MOST_THREADS:
            self._threads += 1
            self._resting += 1
            # A daemon: a name look-up that hangs must not keep the process from ending.
            threading.Thread(
                target=self._serve, name=f"transfer-{self._threads}", daemon=True
            ).start()

    def _serve(self) -> None:
        receiver = Receiver(self._http, self._buffers, self._bandwidth)
        while (unit := self._take()) is not None:
            try:
                self._run(unit, receiver)
            except Exception as error:
                # The thread's outermost line: a defect in one job is that job's end, told to who
                # waits for it, and not the other jobs'.
                log.exception("transfer.defect", model=unit.job.request.model)
                with self._condition:
                    fail(unit.job, error)
            finally:
                with self._condition:
                    self._resting += 1
                    self._units.discard(unit)
                    unit.job.units -= 1
                    self._end_if_over(unit.job)
        receiver.close()

    def _take(self) -> Unit | None:
        with self._condition:
            while not self._closed:
                now = time.monotonic()
                silent = {unit.job for unit in self._units if now - unit.heard >= _QUIET_SECONDS}
                loud = sum(1 for unit in self._units if now - unit.heard < _QUIET_SECONDS)
                if loud < self._settings.connections:
                    for job in sorted(self._jobs, key=lambda job: job.order):
                        if job.units >= (1 if job in silent else self._share(job)):
                            continue
                        unit = job.next_unit(now, self._settings.connections)
                        if unit is not None:
                            job.units += 1
                            self._units.add(unit)
                            self._resting -= 1
                            self._keep_one_in_reserve()
                            return unit
                self._condition.wait(self._nap(now))
        return None

    def _share(self, job: Job) -> int:
        """How many connections a job may have: all, less one for each other that has work."""
        if job.failing:
            return 1
        others = sum(1 for other in self._jobs if other is not job and not other.over)
        connections = self._settings.connections
        return max(1, connections - min(others, connections // 2))

    def _nap(self, now: float) -> float | None:
        """How long there is nothing to do, as far as is known."""
        waits = [wait for job in self._jobs if (wait := job.next_time(now)) is not None]
        if self._units:
            waits.append(_QUIET_SECONDS / 2)  # some may have gone silent by then
        return min(waits, default=None)

    def _end_if_over(self, job: Job) -> None:
        if job.over and job.units == 0 and not job.finished.is_set():
            for task in job.opened:
                if task.fetch is not None:
                    task.fetch.close()
            if job in self._jobs:
                self._jobs.remove(job)
            job.finished.set()
            self._condition.notify_all()  # the others' shares have grown

    # One unit

    def _run(self, unit: Unit, receiver: Receiver) -> None:
        rest: Range | None = None
        task = unit.task
        location: Location | None = None
        try:
            if unit.wanted is None:
                self._open(unit)
            else:
                assert task.fetch is not None
                rest = unit.wanted
                try:
                    location = self._locate(unit, task.fetch)
                    receiver.position = unit.wanted.start
                    flow = Flow(unit.job.request.cancel, unit.hear, partial(_received, unit))
                    receiver.receive(task.fetch, unit.wanted, location, flow)
                finally:
                    rest = Range(receiver.position, unit.wanted.end)
            self._finish_if_complete(unit)
        except Busy:
            with self._condition:
                unit.job.reopen(task, time.monotonic() + _BUSY_SECONDS)
        except (ModelCacheError, OSError) as error:
            self._failed(unit, error, location)
        finally:
            if unit.wanted is not None and task.fetch is not None:
                task.fetch.release(rest)

    def _open(self, unit: Unit) -> None:
        """Take up a file: perhaps it is there already, perhaps a part of it is."""
        task, request = unit.task, unit.job.request
        remote = task.remote
        found = request.find(remote, task.not_before > 0)
        if found is not None:
            request.listener(BytesResumed(request.model, remote.size))
            request.on_file(remote, found)
            with self._condition:
                unit.job.opened.remove(task)
            return
        location = request.origin.locate(remote) if remote.size else None
        unit.heard = time.monotonic()
        claimed = request.ingest.claim(
            blob_key(remote.identity, remote.sha256),
            remote.size,
            resumable=remote.size > _RESUMABLE_BYTES,
        )
        try:
            before = claimed.allocated
            shared = (
                isinstance(location, LocalLocation)
                and not claimed.pieces
                and reflink(location, claimed)
            )
            if not shared:
                claimed.allocate()
            request.on_allocated(claimed.allocated - before)
            fetch = FileFetch(
                remote, location, claimed, self._buffers, range_bytes=self._settings.range_bytes
            )
        except BaseException:
            claimed.close()
            raise
        kept = sum(piece.end - piece.start for piece in claimed.pieces)
        if kept:
            request.listener(BytesResumed(request.model, kept))
        with self._condition:
            task.fetch = fetch
            self._condition.notify_all()
        fetch.drain()

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
        wait: float | None
        with self._condition:
            now = time.monotonic()
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
            else:
                task.not_before = max(task.not_before, now + wait)
            if wait:
                job.failing = True
        if wait:
            self._tell_retry(unit, error, wait)

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
        request.listener(BytesDropped(request.model, task.remote.size))
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
    request = unit.job.request
    request.listener(BytesReceived(request.model, request.scheme, size))


def _disk_failure(error: OSError) -> ModelCacheError:
    failure = ModelCacheError(
        f"the cache's disk fails: {error.strerror or error}"
        + (f" ({error.filename})" if error.filename else "")
    )
    failure.__cause__ = error
    return failure
