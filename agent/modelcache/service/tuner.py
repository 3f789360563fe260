"""`modelcache tune --daemon`: read-ahead stays as rules want it, whatever comes, goes or resets it.

When it ends the values stay: they are wanted until somebody asks to have them put back.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from modelcache import __version__
from modelcache.errors import ModelCacheError
from modelcache.host.readahead import Change, Outcome
from modelcache.metrics import CONTENT_TYPE, TunedDevice, TunerMetrics
from modelcache.service.endpoints import Answer, Endpoints, host_and_port, text
from modelcache.service.heartbeats import Task, Tasks
from modelcache.service.measured import Measuring
from modelcache.service.tuning import Round, Tuner
from modelcache.settings import TuneSettings
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

_LATE_SECONDS: Final = 300.0
_MEASURE_LATE_SECONDS: Final = 3600.0
"""Measuring is bounded, but may be slow on a busy disk."""
_WATCH_LATE_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 1.0
_NEW_SECONDS: Final = 60.0
"""So long a value that was set is looked at more often: the kernel lowers that of a FUSE mount when
its server first answers (process_init_reply in fs/fuse/inode.c), which may be long after it."""
_LOOK_SECONDS: Final = 5.0
_END_SECONDS: Final = 3.0


class TunerDaemon:
    """The tuner of a node: `run` until `stop`."""

    def __init__(self, settings: TuneSettings, measuring: Measuring | None) -> None:
        """Look at the mounts, and listen.

        Raises:
            UsageError, StoreDamaged: it can't work here.
        """
        self._cancel = Cancel()
        self._tuner = Tuner(settings, measuring, tell=_told, stopped=self._cancel.is_set)
        self._tuner.prepare()
        self._settings = settings
        self._metrics = TunerMetrics(self._state)
        self._telling = Telling(self._metrics)
        self._round: Round | None = None
        self._new_until = 0.0
        late_after = max(_LATE_SECONDS, 3 * settings.tune_interval)
        self._tune = Task("tune", self._round_of_all, late_after=late_after)
        # Apart: while a device is measured, or hangs, the others are kept as they are wanted.
        self._measure = Task("measure", self._measure_next, late_after=_MEASURE_LATE_SECONDS)
        self._watch = MountWatch(settings.mountinfo, self._tune.wake)
        watch = Task("watch", self._watch.cycle, late_after=_WATCH_LATE_SECONDS)
        self._tasks = Tasks([self._tune, self._measure, watch])
        self._metrics.follow(self._tasks.states)
        routes = {
            "/livez": self._tasks.livez,
            "/readyz": self._readyz,
            "/metrics": lambda: (200, CONTENT_TYPE, self._metrics.exposition()),
        }
        self._endpoints = Endpoints(settings.address, routes) if settings.address else None

    @property
    def address(self) -> tuple[str, int] | None:
        """Where the endpoints are."""
        return self._endpoints.address if self._endpoints else None

    def stop(self) -> None:
        """Have `run` return, within some seconds. May be called from a signal handler's thread."""
        # In a thread of its own: a signal may arrive while this thread holds one of our locks.
        threading.Thread(target=self._cancel.set, daemon=True).start()

    def run(self) -> None:
        """Work until `stop`."""
        log.info(
            "tuner.started",
            version=__version__,
            rules=self._settings.read_ahead,
            listen=host_and_port(self.address) if self.address else None,
        )
        if self._endpoints:
            self._endpoints.start()
        self._cancel.add(self._watch.stop)
        self._tasks.start(self._cancel)
        self._tasks.watch(self._cancel)
        if "watch" not in self._tasks.join(time.monotonic() + _END_SECONDS):
            self._watch.close()
        if self._endpoints:
            self._endpoints.close()
        log.info("tuner.stopped")

    def _round_of_all(self) -> float:
        try:
            found = self._tuner.round(measure=False)
        except ModelCacheError as error:
            self._telling.failed(error)
            return self._settings.tune_interval
        self._round = found
        if self._telling.tell(found):
            self._new_until = time.monotonic() + _NEW_SECONDS
        if any(change.outcome is Outcome.WAITING for change in found.changes):
            self._measure.wake()
        most = _LOOK_SECONDS if time.monotonic() < self._new_until else math.inf
        return min(most, self._settings.tune_interval)

    def _measure_next(self) -> float | None:
        # Before the first round nothing is read: what is known comes first. It wakes this.
        with suppress(ModelCacheError):  # which the rounds tell
            if self._round is not None and self._tuner.measure():
                self._tune.wake()
                return 0.0
        return None

    def _state(self) -> list[TunedDevice]:
        found = self._round
        return [
            TunedDevice(c.name, c.bdi, c.after, c.wanted, failing=c.outcome is Outcome.FAILED)
            for c in (found.changes if found else ())
        ]

    def _readyz(self) -> Answer:
        return text(200, "ok") if self._round else text(503, "the devices were not looked at yet")


def _told(line: str) -> None:
    log.info("readahead.measuring", message=line)


class Telling:
    """Logs and counts what changes from one round to the next; what stays is not said again."""

    def __init__(self, metrics: TunerMetrics) -> None:
        self._metrics = metrics
        self._before: dict[str, Change] = {}
        self._said: set[str] = set()

    def failed(self, error: ModelCacheError) -> None:
        """A round that could not be made."""
        self._say({f"round: {error}": lambda: log.error("tune.failed", message=str(error))})

    def tell(self, found: Round) -> bool:
        """A round. Whether a value was set that was not set before."""
        new = False
        for change in found.changes:
            if change.outcome is Outcome.SET:
                last = self._before.get(change.bdi)
                same = last is not None and last.after == last.wanted == change.wanted
                new = new or not same
                self._metrics.changed("reset" if same else "rule")
                log.info(
                    "readahead.set",
                    **_keys(change),
                    before_kb=change.before,
                    after_kb=change.after,
                    cause="somebody else had changed it" if same else "as the rule wants it",
                    message=change.message,
                )
        self._before = {change.bdi: change for change in found.changes}
        news: dict[str, Callable[[], None]] = {}
        for change in found.changes:
            if change.outcome in (Outcome.FAILED, Outcome.WAITING):
                failed = change.outcome is Outcome.FAILED
                news[f"{change.bdi}: {change.message}"] = _line(
                    "warning" if failed else "info",
                    "readahead.failed" if failed else "readahead.waiting",
                    **_keys(change),
                    message=change.message,
                )
        for problem in found.problems:
            news[problem] = _line("warning", "readahead.impossible", message=problem)
        for rule in found.unmatched:
            news[f"rule {rule}"] = _line("info", "rule.unmatched", rule=str(rule))
        self._say(news)
        return new

    def _say(self, news: dict[str, Callable[[], None]]) -> None:
        for key, line in news.items():
            if key not in self._said:
                line()
        self._said = set(news)


def _keys(change: Change) -> dict[str, object]:
    return {"device": change.name, "bdi": change.bdi, "rule": change.rule}


def _line(level: str, event: str, **keys: object) -> Callable[[], None]:
    return lambda: getattr(log, level)(event, **keys)


class MountWatch:
    """Tells when something was mounted or unmounted: poll(2) on mountinfo says so by POLLPRI
    (proc_pid_mountinfo(5))."""

    def __init__(self, mountinfo: Path, on_change: Callable[[], None]) -> None:
        self._mountinfo = mountinfo
        self._on_change = on_change
        self._file: BinaryIO | None = None
        self._wakes, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def stop(self) -> None:
        """Have `cycle` return at once, now and later."""
        os.write(self._wake, b"x")

    def close(self) -> None:
        """Give back what is open. `cycle` has ended, and isn't called again."""
        if self._file is not None:
            self._file.close()
        os.close(self._wake)
        os.close(self._wakes)

    def cycle(self) -> float:
        """Wait for a change, or for `stop`.

        Raises:
            OSError: the file can't be opened.
        """
        if self._file is None:  # once: it knows which changes were told
            self._file = self._mountinfo.open("rb")
        poll = select.poll()
        poll.register(self._file, select.POLLPRI)
        poll.register(self._wakes, select.POLLIN)
        found = dict(poll.poll(_WATCH_LATE_SECONDS / 3 * 1000))
        if self._file.fileno() in found:
            self._on_change()
        # A pod that starts makes many mounts.
        return _PAUSE_SECONDS
