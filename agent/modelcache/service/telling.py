"""What is to be said of each model: kept as the last cycle saw it, with progress of the moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import structlog

from modelcache.api import CachedModel, ModelReport, ModelState
from modelcache.catalog import Catalog
from modelcache.errors import Reason
from modelcache.planning.describing import Paths, describe, with_progress
from modelcache.planning.planner import Running
from modelcache.planning.trials import Trial
from modelcache.service.inventory import Snapshots
from modelcache.service.progress import ActiveFetches

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Use:
    """How much a model is used, as a report has it: by how many, or else when it last was."""

    used_by: int | None = None
    last_used_at: datetime | None = None


class Telling:
    """The models' reports. Updated from one thread, read from any."""

    def __init__(
        self,
        progress: ActiveFetches,
        paths: Callable[[str], Paths],
        remembered: Mapping[str, ModelReport] | None = None,
        *,
        resident: Callable[[str, str | None], int | None] = lambda *_: None,
        use: Callable[[str], Use] = lambda _: Use(),
        on_ready: Callable[[ModelReport, float], None] = lambda *_: None,
        on_gone: Callable[[Collection[str]], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`remembered`: what was last reported of the models that this node was known to want.

        They count as wanted until the catalog speaks of them, or can be read without problems: a
        broken document may be theirs.

        `resident` gives how many bytes of a model's revision are in the page cache; None: unknown.
        `use` tells of a model whether it is used. `on_ready` is told of each that is ready and was
        missing, and for how many seconds; `on_gone` of those that are not told of any more, when
        nothing runs for them. `clock` gives seconds since the epoch.
        """
        self._progress = progress
        self._paths = paths
        self._resident = resident
        self._use = use
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._clock = clock
        self._remembered = dict(remembered or {})
        self._former = dict(remembered or {})
        """Those that were not told of yet by this process."""
        self._mutex = threading.Lock()
        self._reports: tuple[ModelReport, ...] | None = None
        self._known: set[str] = set()
        """Those that were told of, till they are gone."""

    def catalog_read(self, catalog: Catalog) -> None:
        """Note what a new catalog speaks of."""
        if catalog.complete:
            self._remembered.clear()
            self._former = {n: last for n, last in self._former.items() if n in catalog.models}
        for name in catalog.models:
            self._remembered.pop(name, None)

    def update(
        self,
        wanted: Mapping[str, CachedModel],
        inventory: Mapping[str, Snapshots],
        trials: Mapping[str, Trial],
        running: Mapping[str, Running],
        waiting: Container[str] = (),
        *,
        unwanted: Mapping[str, float] | None = None,
        leaving: Mapping[str, str] | None = None,
        without_room: Mapping[str, str] | None = None,
    ) -> None:
        """Say it anew of every model that is wanted or there.

        Args:
            wanted, inventory, trials, running: as planning sees them.
            waiting: models whose fetch waits for a permit.
            unwanted: since when nothing wants a model, in seconds since the epoch.
            leaving: models that are about to be evicted, and why.
            without_room: models whose fetch waits until others were, and for how much.
        """
        leaving, without_room = leaving or {}, without_room or {}
        before = {report.name: report for report in self._reports or ()}
        now = self._clock()
        reports: list[ModelReport] = []
        lasts: dict[str, ModelReport | None] = {}
        for name in sorted({*wanted, *inventory}):
            report = describe(
                name,
                wanted.get(name),
                inventory.get(name, ()),
                trials.get(name),
                running.get(name),
                self._progress.of(name),
                self._paths(name),
                waits=name in waiting,
            )
            if report.state is ModelState.READY:
                resident = self._resident(name, report.revision)
                update = {} if resident is None else {"resident_bytes": resident}
                report = report.model_copy(update={**update, **asdict(self._use(name))})
            report = _with_room(report, leaving.get(name), without_room.get(name))
            gone = (unwanted or {}).get(name)
            if gone is not None:
                moment = datetime.fromtimestamp(int(gone), UTC)
                report = report.model_copy(update={"unwanted_since": moment})
            last = self._remembered.get(name)
            if last is not None:
                kept = ("wanted", "priority", "pinned", "page_cache")
                report = report.model_copy(update={each: getattr(last, each) for each in kept})
            old = before.get(name)
            lasts[name] = old or self._former.pop(name, None)
            report = _since(report, lasts[name], now)
            # The same object where nothing is new: who compares later has little to do.
            reports.append(old if old == report else report)
        with self._mutex:
            self._reports = tuple(reports)
        for report in reports:
            last = lasts[report.name]
            if last is not None and _came(report, last):
                since = last.missing_since
                if since is not None:
                    self._on_ready(report, max(0.0, now - since.timestamp()))
        self._known.update(lasts)
        forgotten = self._known - lasts.keys() - running.keys()
        if forgotten:
            self._known -= forgotten
            self._on_gone(forgotten)
        # Last: who reads the log and then asks is to be told the same.
        for report in reports:
            _log_readiness(report, before.get(report.name))
            _log_failure(report, before.get(report.name))

    def reports(self) -> tuple[ModelReport, ...] | None:
        """What is to be said at this moment; None before anything is known."""
        with self._mutex:
            reports = self._reports
        fetching = self._progress.all()
        if reports is None or not fetching:
            return reports
        return tuple(
            with_progress(report, fetching[report.name]) if report.name in fetching else report
            for report in reports
        )


def is_missing(report: ModelReport) -> bool:
    """Whether a model is to be there and isn't."""
    return report.wanted and report.state is not ModelState.READY


def _is_same(report: ModelReport, last: ModelReport) -> bool:
    """Whether the same is wanted as was wanted before."""
    return report.wanted and last.wanted and report.source_digest == last.source_digest


def _came(report: ModelReport, last: ModelReport) -> bool:
    """Whether a model is ready that may not have been there: what was about to leave was."""
    stayed = last.state is ModelState.EVICTED
    return report.state is ModelState.READY and not stayed and _is_same(report, last)


def _since(report: ModelReport, last: ModelReport | None, now: float) -> ModelReport:
    """A report with since when it is wanted, and since when it is missing; `last` is the one
    before, perhaps of another process."""
    if not report.wanted:
        return report
    moment = datetime.fromtimestamp(int(now), UTC)
    if last is not None and not _is_same(report, last):
        last = None
    wanted = (last.wanted_since if last else None) or moment
    missing = None
    if report.state is not ModelState.READY:
        was_ready = last is not None and last.state is ModelState.READY
        missing = (last.missing_since if last else None) or (moment if was_ready else wanted)
    return report.model_copy(update={"wanted_since": wanted, "missing_since": missing})


def _with_room(report: ModelReport, leaving: str | None, waiting: str | None) -> ModelReport:
    """A report with why a model is about to go, or what its fetch waits for."""
    if leaving is not None:
        update = {
            "state": ModelState.EVICTED,
            "reason": Reason.INSUFFICIENT_DISK,
            "message": leaving,
        }
        return report.model_copy(update=update)
    if waiting is not None and report.message is None:
        return report.model_copy(update={"message": waiting})
    return report


def _log_readiness(report: ModelReport, before: ModelReport | None) -> None:
    ready = report.revision if report.state is ModelState.READY else None
    was = before.revision if before and before.state is ModelState.READY else None
    if ready and ready != was:
        log.info(
            "model.ready",
            model=report.name,
            revision=ready[:12],
            bytes=report.bytes_total,
            files=report.files,
        )


def _log_failure(report: ModelReport, before: ModelReport | None) -> None:
    if report.attempts and (before is None or report.attempts != before.attempts):
        log.warning(
            "model.failed",
            model=report.name,
            reason=report.reason,
            message=report.message,
            attempts=report.attempts,
            retry_at=report.retry_at.isoformat() if report.retry_at else None,
        )
