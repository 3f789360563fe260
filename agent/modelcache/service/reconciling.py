"""The reconciler: plans, and has the plan carried out, one thread for each model at work."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from modelcache.api import CachedModel, ModelReport, ModelState, Source
from modelcache.catalog import Catalog
from modelcache.errors import Cancelled, ModelCacheError
from modelcache.origins import Origin, OriginSettings, Revision, open_origin
from modelcache.planning.describing import describe, with_progress
from modelcache.planning.placement import selects
from modelcache.planning.planner import (
    Action,
    Fetch,
    Limits,
    Resolve,
    Running,
    Show,
    Stop,
    Withdraw,
    plan,
)
from modelcache.planning.trials import Resolved, Trial
from modelcache.service.inventory import Inventory
from modelcache.service.progress import ProgressBook
from modelcache.store import Store
from modelcache.transfer import Cancel, ModelFetch, ModelFetcher, delay, resolve

log = structlog.get_logger(__name__)

_CYCLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Node:
    """The node, as far as planning looks at it. `labels` None: unknown, every object is meant."""

    name: str
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """What a resolution gave, kept for the fetch that follows."""

    origin: Origin
    revision: Revision


@dataclass(frozen=True, slots=True)
class _Result:
    """The end of something that ran."""

    name: str
    what: Running
    found: _Found | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Work:
    """Something that runs."""

    what: Running
    cancel: Cancel = field(default_factory=Cancel)


class Reconciler:
    """Keeps the store at what the catalog wants. `cycle` is called from one thread."""

    def __init__(
        self,
        *,
        store: Store,
        fetcher: ModelFetcher,
        origins: OriginSettings,
        progress: ProgressBook,
        node: Node,
        limits: Limits,
        cancel: Cancel,
        wake: Callable[[], None],
        remembered: Iterable[str] = (),
    ) -> None:
        """`remembered`: the models that this node was last known to want. They count as wanted
        until a catalog was read without problems, for a broken document may be theirs."""
        self._store = store
        self._fetcher = fetcher
        self._origins = origins
        self._progress = progress
        self._node = node
        self._limits = limits
        self._cancel = cancel
        self._wake = wake
        self._remembered = frozenset(remembered)
        self.inventory = Inventory(store)
        self._catalog: Catalog | None = None
        self._trials: dict[str, Trial] = {}
        self._found: dict[str, _Found] = {}
        self._running: dict[str, _Work] = {}
        self._results: queue.SimpleQueue[_Result] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self._reports: tuple[ModelReport, ...] = ()
        self.cycles = 0

    @property
    def catalog(self) -> Catalog | None:
        """The catalog in force; None before the first was read."""
        return self._catalog

    @catalog.setter
    def catalog(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._wake()

    def cycle(self) -> float:
        """One round: take in results, plan, begin what is to begin.

        Returns:
            Seconds until the next round is due.
        """
        self._take_results()
        now = time.time()
        if self._catalog is None:
            self._update_reports(None)
            return _CYCLE_SECONDS
        wanted = self._wanted(self._catalog)
        self._forget(wanted)
        inventory = self.inventory.read()
        held = {name: [h for h, _ in pairs] for name, pairs in inventory.items()}
        running = {name: work.what for name, work in self._running.items()}
        planned = plan(wanted, held, self._trials, running, now, self._limits)
        for action in planned.actions:
            self._begin(action, wanted)
        self._update_reports(wanted)
        self.cycles += 1
        if planned.wake_at is None:
            return _CYCLE_SECONDS
        return min(_CYCLE_SECONDS, max(0.05, planned.wake_at - now))

    def reports(self) -> tuple[ModelReport, ...]:
        """What is to be said of each model, with its progress at this moment."""
        with self._mutex:
            reports = self._reports
        fetching = self._progress.all()
        return tuple(
            with_progress(report, fetching[report.name]) if report.name in fetching else report
            for report in reports
        )

    @property
    def settled(self) -> bool:
        """Whether every model is ready or has failed once, and nothing runs."""
        return (
            self.cycles > 0
            and not self._running
            and self._results.empty()
            and all(
                report.state is ModelState.READY or report.attempts
                for report in self._reports
                if report.wanted
            )
        )

    def _wanted(self, catalog: Catalog) -> dict[str, CachedModel]:
        labels = self._node.labels
        return {
            name: model
            for name, model in catalog.models.items()
            if labels is None or selects(model.spec, self._node.name, labels)
        }

    def _forget(self, wanted: Mapping[str, CachedModel]) -> None:
        assert self._catalog is not None
        if self._catalog.complete:
            self._remembered = frozenset()
        for name in set(self._trials) - set(wanted):
            del self._trials[name]
        for name in set(self._found) - set(wanted):
            del self._found[name]

    # Carrying out

    def _begin(self, action: Action, wanted: Mapping[str, CachedModel]) -> None:
        match action:
            case Stop(name):
                self._running[name].cancel.set()
            case Withdraw(name, snapshot):
                self._withdraw(name, snapshot)
            case Show(name, snapshot):
                for manifest in self._store.snapshots(name):
                    if manifest.snapshot == snapshot:
                        self._store.show(manifest)
                        log.info("model.shown", model=name, snapshot=snapshot)
            case Resolve(name) | Fetch(name):
                self._start(type(action), wanted[name])

    def _withdraw(self, name: str, snapshot: str) -> None:
        for manifest in self._store.snapshots(name):
            if manifest.snapshot == snapshot:
                damages = self._store.look(manifest)
                if damages:
                    log.error(
                        "model.damaged",
                        model=name,
                        snapshot=snapshot,
                        files=len(damages),
                        first=f"{damages[0].path}: {damages[0].what}",
                    )
                    self._store.withdraw(manifest, damages)
        self._wake()

    def _start(self, kind: type[Resolve] | type[Fetch], model: CachedModel) -> None:
        source = model.spec.source
        found = self._found.get(model.name) if kind is Fetch else None
        work = _Work(Running(kind, source.digest()), Cancel(self._cancel))
        self._running[model.name] = work

        def run() -> None:
            result: _Found | None = None
            error: BaseException | None = None
            try:
                if found is None:
                    result = self._resolve(source, work.cancel)
                else:
                    self._fetch(model, found, work.cancel)
            except ModelCacheError as failure:
                error = failure
            except Exception as failure:
                # The thread's outermost line: one model's defect is its own failed try.
                log.exception("model.defect", model=model.name)
                error = failure
            self._results.put(_Result(model.name, work.what, result, error))
            work.cancel.close()
            self._wake()

        threading.Thread(
            target=run, name=f"{kind.__name__.lower()}-{model.name}", daemon=True
        ).start()

    def _resolve(self, source: Source, cancel: Cancel) -> _Found:
        origin = open_origin(source, self._origins)
        return _Found(origin, resolve(origin, source, cancel))

    def _fetch(self, model: CachedModel, found: _Found, cancel: Cancel) -> None:
        self._fetcher.fetch(
            ModelFetch(
                model.name, model.spec.source, found.origin, found.revision, model.spec.priority
            ),
            cancel,
        )

    # Results

    def _take_results(self) -> None:
        while True:
            try:
                result = self._results.get_nowait()
            except queue.Empty:
                return
            self._running.pop(result.name, None)
            trial = self._trials.get(result.name)
            if trial is None or trial.source != result.what.source:
                trial = Trial(result.what.source)
            self._trials[result.name] = self._judge(result, trial)

    def _judge(self, result: _Result, trial: Trial) -> Trial:
        now = time.time()
        if isinstance(result.error, Cancelled):
            return trial
        if result.error is not None:
            self._found.pop(result.name, None)
            failed = trial.failed(result.error, now, delay)
            log.warning(
                "model.failed",
                model=result.name,
                reason=failed.reason,
                message=failed.message,
                attempts=failed.failures,
                retry_seconds=round(failed.retry_at - now, 1),
            )
            return failed
        if result.found is not None:
            revision = result.found.revision
            trial = trial.found(Resolved(revision.snapshot, revision.id, revision.size, now))
            if self._is_held(result.name, result.what.source, revision.snapshot):
                return trial.succeeded()
            self._found[result.name] = result.found
            return trial
        self._found.pop(result.name, None)
        return trial.succeeded()

    def _is_held(self, name: str, source: str, snapshot: str) -> bool:
        """Whether the origin holds what is here already: there is nothing to fetch."""
        return any(
            held.whole and (held.source, held.snapshot) == (source, snapshot)
            for held, _ in self.inventory.read().get(name, ())
        )

    def _update_reports(self, wanted: Mapping[str, CachedModel] | None) -> None:
        """`wanted` is None before a catalog was read: then nothing is said to be unwanted."""
        inventory = self.inventory.read()
        names = sorted({*(wanted or ()), *inventory})
        reports = []
        for name in names:
            work = self._running.get(name)
            report = describe(
                name,
                wanted.get(name) if wanted else None,
                inventory.get(name, ()),
                self._trials.get(name),
                work.what if work else None,
                self._progress.of(name),
                self.inventory.paths(name),
            )
            if not report.wanted and (name in self._remembered):
                report = report.model_copy(update={"wanted": True})
            reports.append(report)
        before = {report.name: _shown(report) for report in self._reports}
        with self._mutex:
            self._reports = tuple(reports)
        for report in reports:
            if _shown(report) and _shown(report) != before.get(report.name):
                log.info(
                    "model.ready",
                    model=report.name,
                    revision=(report.revision or "")[:12],
                    bytes=report.bytes_total,
                    files=report.files,
                )


def _shown(report: ModelReport) -> str | None:
    """The revision that a model is ready with."""
    return report.revision if report.state is ModelState.READY else None
