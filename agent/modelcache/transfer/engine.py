"""The engine: moves the bytes of many files of many models over a bounded number of connections.

Jobs are served in order of priority, small ones first within one priority. Each connection takes
the next thing to do: open another file of the job, or a range of one that is open; so many files
are fetched a connection each, and one big file by all of them.

One job never holds up another: as long as others have work, a job leaves them connections; a
connection that has been silent for some seconds doesn't count against any limit, so another takes
its place; a file whose origin fails waits for its next try without a connection; and a job whose
last try failed gets one connection until bytes come. A host that asks for fewer requests gets fewer
of all jobs together (`hosts`), while the jobs of other hosts take the connections that it left.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import structlog

from modelcache.errors import Cancelled, ModelCacheError
from modelcache.host.ioprio import io_priority, set_io_priority
from modelcache.origins.network import Network
from modelcache.transfer.buffers import Buffers
from modelcache.transfer.http import HttpClient
from modelcache.transfer.jobs import FetchRequest, Job, Unit, fail
from modelcache.transfer.limiting import Bandwidth, Pace
from modelcache.transfer.receiving import Receiver
from modelcache.transfer.tuning import TransferSettings
from modelcache.transfer.ways import Ways
from modelcache.transfer.working import Worker

log = structlog.get_logger(__name__)

_QUIET_SECONDS = 5.0
_ABANDON_SECONDS = 0.8
_MOST_THREADS = 64


class Engine:
    """Connections that serve `fetch` requests. Safe for threads."""

    def __init__(
        self, settings: TransferSettings | None = None, network: Network | None = None
    ) -> None:
        """`network`: how the world is reached; by default as the environment says."""
        self._settings = settings or TransferSettings()
        self._buffers = Buffers(self._settings.spare_buffers)
        self._bandwidth = Bandwidth(self._settings.bandwidth)
        self._origin_bandwidth = {
            origin: Bandwidth(rate) for origin, rate in self._settings.origin_bandwidth.items()
        }
        self._ways = Ways(self._settings)
        self._http = HttpClient(network, read_timeout=self._settings.read_timeout)
        self._condition = threading.Condition()
        self._jobs: list[Job] = []
        self._units: set[Unit] = set()
        self._sequence = count()
        self._closed = False
        self._buffers.on_spare = self._look_again
        self._worker = Worker(self._settings, self._buffers, self._condition, self._ways)
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
        try:
            self._wait_for(job)
        finally:
            job.cancel.close()
        if job.error is not None:
            raise job.error

    def _wait_for(self, job: Job) -> None:
        cancel = job.request.cancel
        with cancel.calling(self._wake):
            with self._condition:
                self._jobs.append(job)
                self._end_if_over(job)
                self._keep_one_in_reserve()
                self._condition.notify_all()
            if cancel.is_set():
                self._wake()  # cancelled before it was among the jobs
            job.woken.wait()
            if not job.finished.wait(_ABANDON_SECONDS) and isinstance(job.error, Cancelled):
                raise Cancelled("stopped on request; a connection that hangs was left behind")

    @contextmanager
    def as_a_connection(self) -> Iterator[memoryview]:
        """A buffer and the connections' I/O priority, for what the caller does itself."""
        with io_priority(self._settings.io_priority):
            buffer = self._buffers.must()
            try:
                yield buffer
            finally:
                self._buffers.give_back(buffer)

    def _wake(self) -> None:
        """A job was cancelled: whoever waits looks again."""
        with self._condition:
            for job in list(self._jobs):
                if job.request.cancel.is_set():
                    fail(job, Cancelled("stopped on request; what was fetched is kept"))
                    self._end_if_over(job)
                    job.woken.set()
            self._condition.notify_all()

    def _look_again(self) -> None:
        with self._condition:
            self._condition.notify_all()

    # The threads

    def _keep_one_in_reserve(self) -> None:
        """Have a thread that rests, so that there is always one to replace those that hang."""
        if self._resting == 0 and self._threads < _MOST_THREADS:
            self._threads += 1
            self._resting += 1
            # A daemon: a name look-up that hangs must not keep the process from ending.
            thread = threading.Thread(
                target=self._serve, name=f"transfer-{self._threads}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                self._do_without(
                    ModelCacheError(
                        f"no thread can be started to fetch with ({error}): raise the limit of"
                        " threads (pids) of this process"
                    )
                )

    def _do_without(self, error: ModelCacheError) -> None:
        """A thread could not begin: the others go on; where there is none, the jobs fail."""
        self._threads -= 1
        self._resting -= 1
        if self._threads == 0:
            for job in list(self._jobs):
                fail(job, error)
                self._end_if_over(job)

    def _serve(self) -> None:
        set_io_priority(self._settings.io_priority)
        pace = Pace(self._bandwidth, self._origin_bandwidth)
        try:
            receiver = Receiver(self._http, self._buffers, pace)
        except ModelCacheError as error:
            with self._condition:
                self._do_without(error)
            return
        while (unit := self._take()) is not None:
            try:
                self._worker.run(unit, receiver, pace)
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
                    self._ways.ended(unit.way, unit.began)
                    self._end_if_over(unit.job)
                if unit.job.error is not None:
                    unit.job.cancel.set()  # the others of its connections stop, too
        receiver.close()

    def _take(self) -> Unit | None:
        with self._condition:
            while not self._closed:
                now = time.monotonic()
                loud = Counter(u.job for u in self._units if now - u.heard < _QUIET_SECONDS)
                if loud.total() < self._settings.connections:
                    for job in self._turns(now, loud):
                        unit = job.next_unit(now, self._settings.connections, self._ways)
                        if unit is not None:
                            job.units += 1
                            self._ways.began(unit.way)
                            self._units.add(unit)
                            self._resting -= 1
                            self._keep_one_in_reserve()
                            return unit
                self._condition.wait(self._nap(now))
        return None

    def _turns(self, now: float, loud: Counter[Job]) -> list[Job]:
        """The jobs that may have one more connection, the first to be asked first.

        Those that would only replace a silent one come last: else a job of many that hang would
        take all that comes free. Before a job gets its second one while nothing has come by the
        first, all others get theirs: of jobs whose origin hangs there may be many.
        """
        working = [job for job in self._jobs if job.has_work(now, self._ways)]
        shares = {job: self._share(job, len(working) - 1) for job in working}
        return sorted(
            (job for job in working if loud[job] < shares[job]),
            key=lambda job: (
                job.units >= shares[job],
                job.units > 0 and not job.heard,
                job.order,
            ),
        )

    def _share(self, job: Job, others: int) -> int:
        """How many connections a job may have: all, less one for each other that has work."""
        if job.failing:
            return 1
        connections = self._settings.connections
        return max(1, connections - min(others, connections // 2))

    def _nap(self, now: float) -> float | None:
        """How long there is nothing to do, as far as is known."""
        waits = [wait for job in self._jobs if (wait := job.next_time(now)) is not None]
        if (pause := self._ways.hosts.next_time(now)) is not None:
            waits.append(pause)
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
            job.woken.set()
            self._condition.notify_all()  # the others' shares have grown
