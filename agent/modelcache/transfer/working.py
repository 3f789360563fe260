"""A unit of the engine's work: a file opened, or a range of it fetched."""

from __future__ import annotations

import threading
import time
from functools import partial

from modelcache.errors import (
    ModelCacheError,
)
from modelcache.origins.protocol import LocalLocation, Location, RemoteFile
from modelcache.store import Busy, blob_key
from modelcache.transfer.buffers import PIECE_BYTES, Buffers
from modelcache.transfer.events import (
    BytesReceived,
    BytesResumed,
    FileStarted,
)
from modelcache.transfer.failing import BUSY_SECONDS, Failures
from modelcache.transfer.filefetch import FileFetch, Range
from modelcache.transfer.jobs import Unit
from modelcache.transfer.limiting import Pace
from modelcache.transfer.receiving import Flow, Receiver, reflink
from modelcache.transfer.spending import spending, taken
from modelcache.transfer.tuning import TransferSettings
from modelcache.transfer.ways import Ways

_RESUMABLE_BYTES = 4 * PIECE_BYTES


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
        self._failures = Failures(settings, condition, ways)
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
                unit.job.reopen(unit.task, time.monotonic() + BUSY_SECONDS)
        except (ModelCacheError, OSError) as error:
            self._failures.judge(unit, error)
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


def _is_resumable(remote: RemoteFile) -> bool:
    """Whether what came of it is kept for the next run; small files are begun anew."""
    return remote.size > _RESUMABLE_BYTES


def _received(unit: Unit, size: int) -> None:
    request, mirror = unit.job.request, unit.way.mirror
    if mirror is not None:
        unit.task.served_by.add(mirror)
    request.listener(
        BytesReceived(request.model, request.scheme, size, unit.task.remote.path, mirror)
    )
