"""The daemon: the one place where its parts are put together."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import structlog

from modelcache import __version__
from modelcache.api import NodeCache
from modelcache.catalog import FileCatalog
from modelcache.catalog.watching import CatalogWatch
from modelcache.metrics import CONTENT_TYPE, Metrics
from modelcache.origins import OriginSettings, SecretStore
from modelcache.planning.planner import Limits
from modelcache.service.endpoints import Answer, Endpoints, document, text
from modelcache.service.heartbeats import Task
from modelcache.service.logs import log_event
from modelcache.service.progress import ProgressBook
from modelcache.service.reconciling import Node, Reconciler
from modelcache.service.reporting import Reporter, read_node_report
from modelcache.settings import AgentSettings
from modelcache.store import KeepFree, Store
from modelcache.transfer import Cancel, Engine, ModelFetcher, TransferSettings
from modelcache.transfer.events import fan_out

log = structlog.get_logger(__name__)

_SWEEP_SECONDS = 3600.0
_END_SECONDS = 3.0


class Agent:
    """One node's agent: `run` until `stop`."""

    def __init__(self, settings: AgentSettings, *, once: bool = False) -> None:
        """Open the store and listen. `once`: end by itself when nothing is left to do.

        Raises:
            StoreDamaged, UsageError
        """
        self._settings = settings
        self._once = once
        self._cancel = Cancel()
        keep_bytes, keep_ratio = settings.keep_free_parts
        self._store = Store(settings.root, keep_free=KeepFree(keep_bytes, keep_ratio))
        self.progress = ProgressBook()
        self._metrics = Metrics(self._report)
        self._engine = Engine(
            TransferSettings(connections=settings.connections, bandwidth=settings.bandwidth)
        )
        self._catalog = FileCatalog(settings.catalog)
        self._reconciler = Reconciler(
            store=self._store,
            fetcher=ModelFetcher(
                self._store, self._engine, fan_out(self.progress, self._metrics, log_event)
            ),
            origins=OriginSettings(
                root=self._store.layout.root,
                file_roots=settings.file_roots,
                secrets=SecretStore(settings.secrets_dir),
            ),
            progress=self.progress,
            node=Node(settings.node_name, settings.labels),
            limits=Limits(fetching=settings.models_at_once),
            cancel=self._cancel,
            wake=self._wake,
            remembered=_wanted_before(self._store),
        )
        self._reporter = Reporter(
            store=self._store,
            node_name=settings.node_name,
            reports=self._reconciler.reports,
            catalog=lambda: self._reconciler.catalog,
            used=self._reconciler.inventory.used,
            max_labels=settings.max_labels,
        )
        self._tasks = {
            "catalog": Task("catalog", self._read_catalog, late_after=120.0),
            "reconcile": Task("reconcile", self._reconcile, late_after=120.0),
            "report": Task("report", self._reporter.cycle, late_after=60.0),
            "sweep": Task("sweep", self._sweep, late_after=3 * _SWEEP_SECONDS),
        }
        self._watch = CatalogWatch(settings.catalog, self._tasks["catalog"].wake)
        self._endpoints = (
            Endpoints(
                settings.address,
                {
                    "/livez": self._livez,
                    "/readyz": self._readyz,
                    "/metrics": lambda: (200, CONTENT_TYPE, self._metrics.exposition()),
                    "/v1/node": lambda: document(self._reporter.current().to_document()),
                },
            )
            if settings.address
            else None
        )

    @property
    def address(self) -> tuple[str, int] | None:
        """Where the endpoints are."""
        return self._endpoints.address if self._endpoints else None

    def stop(self) -> None:
        """Have `run` return, within some seconds. May be called from a signal handler's thread."""
        # In a thread of its own: a signal may arrive while this thread holds one of our locks.
        threading.Thread(target=self._cancel.set, daemon=True).start()

    def run(self) -> NodeCache:
        """Work until `stop`, or, with `once`, until everything was tried.

        Returns:
            The last report.
        """
        log.info(
            "agent.started",
            version=__version__,
            root=str(self._store.layout.root),
            catalog=str(self._settings.catalog),
            listen=":".join(map(str, self.address)) if self.address else None,
        )
        if self._endpoints:
            self._endpoints.start()
        self._read_catalog()
        self._watch.start()
        for task in self._tasks.values():
            task.start(self._cancel)
        while not self._cancel.event.wait(1.0):
            for task in self._tasks.values():
                if task.late:
                    log.error("task.hung", task=task.name)
        return self._end()

    def _end(self) -> NodeCache:
        deadline = time.monotonic() + _END_SECONDS
        self._watch.stop()
        for task in self._tasks.values():
            if not task.join(max(0.0, deadline - time.monotonic())):
                log.warning("task.left_behind", task=task.name)
        self._engine.close()
        # What was cancelled has ended, or is about to: a last round notes how far it came.
        self._reconciler.cycle()
        self._reporter.cycle()
        if self._endpoints:
            self._endpoints.close()
        log.info("agent.stopped")
        return self._reporter.current()

    # The tasks

    def _wake(self) -> None:
        self._tasks["reconcile"].wake()

    def _read_catalog(self) -> float | None:
        before = self._reconciler.catalog
        catalog = self._catalog.read()
        if catalog is not before:
            known = {str(problem) for problem in before.problems} if before else set()
            for problem in catalog.problems:
                if str(problem) not in known:
                    log.error("catalog.problem", problem=str(problem))
            log.info("catalog.read", objects=len(catalog.documents), problems=len(catalog.problems))
            self._reconciler.catalog = catalog
        return None

    def _reconcile(self) -> float:
        wait = self._reconciler.cycle()
        if self._once and self._reconciler.settled:
            self.stop()
        return wait

    def _sweep(self) -> float:
        self._store.sweep()
        return _SWEEP_SECONDS

    # The endpoints

    def _report(self) -> NodeCache | None:
        return self._reporter.current()

    def _livez(self) -> Answer:
        late = [task.name for task in self._tasks.values() if task.late]
        return text(500, f"hung: {', '.join(late)}") if late else text(200, "ok")

    def _readyz(self) -> Answer:
        if self._reconciler.catalog is None:
            return text(503, "the catalog was not read yet")
        probe: Path = self._store.layout.scratch / "readyz"
        try:
            probe.write_bytes(b"ok")
            probe.unlink(missing_ok=True)
        except OSError as error:
            return text(503, f"the disk can't be written: {error.strerror}")
        return text(200, "ok")


def _wanted_before(store: Store) -> frozenset[str]:
    report = read_node_report(store.layout)
    models = report.status.models if report and report.status else ()
    return frozenset(model.name for model in models if model.wanted)
