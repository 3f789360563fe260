"""The daemon: the one place where its parts are put together."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from functools import partial

import structlog

from modelcache import __version__
from modelcache.api import ModelReport, NodeCache
from modelcache.catalog import Catalog
from modelcache.errors import StoreDamaged
from modelcache.host.booting import Jumps
from modelcache.metrics import CONTENT_TYPE, DiskMetrics, Metrics, ReconcileMetrics
from modelcache.planning.planner import Limits
from modelcache.service.adopting import Adopt, machine_of, recognise
from modelcache.service.answering import Readiness, node
from modelcache.service.cataloguing import CatalogReader
from modelcache.service.clusterside import ClusterSide, boot_id
from modelcache.service.compilecache.side import CompileSide
from modelcache.service.diskwatch import DiskWatch
from modelcache.service.endpoints import Endpoints, host_and_port
from modelcache.service.evicting import Evicting, Rules
from modelcache.service.evictionnews import EvictionNews
from modelcache.service.farewell import say_that_the_disk_is_down
from modelcache.service.fetchhistory import FetchHistory
from modelcache.service.heartbeats import Task, Tasks
from modelcache.service.inventory import Inventory
from modelcache.service.logs import log_event
from modelcache.service.opening import store_of
from modelcache.service.outfit import outfit
from modelcache.service.progress import ActiveFetches
from modelcache.service.reconciling import Reconciler
from modelcache.service.reporting import Reporter, is_unreadable, read_node_report
from modelcache.service.residency import Residency, resident_of
from modelcache.service.statuspage import StatusPage
from modelcache.service.surroundings import Alone, Node
from modelcache.service.telling import Telling, is_missing
from modelcache.service.tracing import open_traces
from modelcache.service.unwanted import Keeping
from modelcache.service.upkeep import Upkeep
from modelcache.service.using import LastUses, Using
from modelcache.service.working import Crew
from modelcache.settings import AgentSettings
from modelcache.store.sickness import sick_error
from modelcache.transfer import Cancel, ModelFetcher
from modelcache.transfer.events import Listener, fan_out

log = structlog.get_logger(__name__)

_END_SECONDS = 3.0
_LEAVE_SECONDS = 2.0
_LEAST_USE_SECONDS = 2.0
# Generous: a commit of many files holds the store for a while, and a restart has it begin anew.
_LATE_SECONDS = 600.0


class Agent:
    """One node's agent: `run` until `stop`."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        once: bool = False,
        progress: ActiveFetches | None = None,
    ) -> None:
        """Open the store and listen.

        Args:
            settings: the agent's.
            once: end by itself when nothing is left to do.
            progress: is told of fetches, for whoever shows them.

        Raises:
            StoreDamaged, UsageError
        """
        self._settings = settings
        self._once = once
        self._cancel = Cancel()
        try:
            self._store = store_of(settings)
            recognise(self._store, Adopt(settings.adopt), machine_of(settings))
        except StoreDamaged as error:
            if settings.cluster and sick_error(error) is not None:
                say_that_the_disk_is_down(settings, error)
            raise
        self._progress = progress or ActiveFetches()
        self._metrics = Metrics(lambda: self._reporter.known())
        self._engine, origins = outfit(settings, self._store.layout.root, settings.file_roots)
        self._disk = DiskWatch(
            self._store.layout,
            on_change=lambda: self._disk_changed(),
            wake=lambda: self._tasks["disk"].wake(),
        )
        inventory = Inventory(self._store, self._disk.is_to_blame)
        before = read_node_report(self._store.layout)
        former = before.status.models if before and before.status else ()
        self._metrics.remember(former)
        self._residency = Residency(
            self._store.shown,
            partial(resident_of, self._store.layout),
            seconds=settings.residency_seconds,
            remembered=former,
            on_change=self._wake,
        )
        self._telling = Telling(
            self._progress,
            inventory.paths,
            _wanted(before),
            resident=self._residency.of,
            use=lambda name: self._last_uses.of(name),
            on_ready=self._metrics.ready,
            on_gone=self._models_are_gone,
        )
        self._history = FetchHistory(self._store, self._metrics.regretted)
        using = Using(self._store, alone=not settings.cluster)
        self._cluster = (
            ClusterSide(
                settings,
                root=self._store.layout.root,
                before=before,
                report=lambda: self._reporter.latest,
                on_catalog=lambda: self._tasks["catalog"].wake(),
                on_change=self._wake,
                beside=using.beside,
                on_pods=lambda: self._tasks["use"].wake(),
                on_answer=self._metrics.answered,
            )
            if settings.cluster
            else None
        )
        path = settings.catalog_path
        self._catalog = CatalogReader(
            path,
            self._cluster.catalog if self._cluster else None,
            on_news=self._catalog_is_new,
            wake=lambda: self._tasks["catalog"].wake(),
        )
        self._traces = (
            open_traces(settings.otlp_endpoint, settings.node_name)
            if settings.otlp_endpoint
            else None
        )
        self._page = StatusPage(
            self._store.layout.root,
            before,
            report=lambda: (self._reporter.latest, self._reporter.latest_at),
            fetching=self._progress.all,
            hung=lambda: self._all_tasks.hung(),
            beside=lambda: self._cluster,
            watermarks=settings.watermarks,
        )
        told: tuple[Listener, ...] = (
            log_event,
            self._page.happenings,
            *((self._traces,) if self._traces else ()),
        )
        events = fan_out(self._progress, self._metrics, self._history, *told)
        # Without a cluster nothing goes because its time is over, but only to make room.
        after = settings.delete_unwanted_after if settings.cluster else None
        keeping = Keeping(after, also_when_empty=path is None)
        self._compiled = CompileSide(
            settings,
            store=self._store,
            engine=self._engine,
            origins=origins,
            events=fan_out(self._progress, self._metrics, *told),
            cluster=self._cluster,
            keeping=keeping,
            registry=self._metrics.registry,
            before=before,
            disk=self._disk,
            cancel=self._cancel,
            on_round=self._end_if_settled,
        )
        surroundings = self._cluster or Alone(Node(settings.node_name, settings.labels), using.uses)
        self._last_uses = LastUses(
            self._store,
            surroundings.uses,
            processes=not settings.cluster,
            remembered=former,
            on_change=self._wake,
            on_use=lambda model: self._metrics.used(model, self._history.seconds(model)),
            least=_LEAST_USE_SECONDS,
        )
        self._crew = Crew(
            fetcher=ModelFetcher(self._store, self._engine, events),
            origins=origins,
            progress=self._progress,
            cancel=self._cancel,
            on_end=self._wake,
            jitter=(settings.start_jitter if settings.cluster and settings.nodes_at_once else 0.0),
            listener=events,
        )
        self._reconciler = Reconciler(
            store=self._store,
            inventory=inventory,
            crew=self._crew,
            telling=self._telling,
            surroundings=surroundings,
            evicting=Evicting(
                store=self._store,
                surroundings=surroundings,
                rules=Rules(settings.delete_unwanted_after, *settings.watermarks),
                told=EvictionNews(
                    self._metrics, lambda: self._page.happenings, self._history.evicted
                ),
            ),
            limits=Limits(fetching=settings.models_at_once),
            keeping=keeping,
            stopping=self._cancel.is_set,
            disk=self._disk,
            wake=self._wake,
            last_used=self._store.last_use.of,
            jumps=Jumps(),
        )
        upkeep = Upkeep(
            settings,
            self._store,
            disk=self._disk,
            registry=self._metrics.registry,
            cancel=self._cancel,
            busy=self._progress.is_moving,
            priorities=lambda: {
                each.name: each.priority for each in self._telling.reports() or () if each.wanted
            },
            misses=lambda: bool(self.missing),
            sweep_others=self._compiled.sweep,
            on_change=self._wake,
            told=self._page.happenings,
        )
        self._reconciling = ReconcileMetrics(
            self._metrics.registry,
            lag=lambda: self._tasks["reconcile"].lag,
            unreadable=lambda: (
                None if (read := self._catalog.catalog) is None else is_unreadable(read)
            ),
        )
        DiskMetrics(self._metrics.registry, lambda: self._disk.health.state)
        self._reporter = Reporter(
            store=self._store,
            node_name=settings.node_name,
            reports=self._telling.reports,
            catalog=lambda: self._catalog.catalog,
            used=lambda: inventory.used() + self._compiled.keeper.bytes,
            compile_caches=self._compiled.reports,
            max_labels=settings.max_labels,
            boot_id=boot_id(),
            disk=lambda: self._disk.health,
            on_error=self._disk.noted,
            on_news=self._news,
        )
        self._tasks = {
            "catalog": Task("catalog", self._catalog.cycle, late_after=_LATE_SECONDS),
            "reconcile": Task("reconcile", self._reconcile, late_after=_LATE_SECONDS),
            "report": Task("report", self._reporter.cycle, late_after=_LATE_SECONDS),
            "residency": Task("residency", self._residency.cycle, late_after=_LATE_SECONDS),
            "use": Task("use", self._last_uses.cycle, late_after=_LATE_SECONDS),
            "disk": Task("disk", self._disk.cycle, late_after=_LATE_SECONDS),
            **upkeep.tasks,
        }
        clusters = self._cluster.tasks.values() if self._cluster else ()
        self._all_tasks = Tasks([*self._tasks.values(), self._compiled.task, *clusters])
        self._metrics.follow(self._all_tasks.states)
        readiness = Readiness(
            lambda: self._catalog.catalog,
            self._disk,
            self._store.layout.scratch,
            from_files=path is not None,
        )
        self._endpoints = (
            Endpoints(
                settings.address,
                {
                    "/livez": self._all_tasks.livez,
                    "/readyz": readiness.readyz,
                    "/metrics": lambda: (200, CONTENT_TYPE, self._metrics.exposition()),
                    "/v1/node": lambda: node(self._reporter.current()),
                    **self._page.routes,
                },
            )
            if settings.address
            else None
        )

    @property
    def address(self) -> tuple[str, int] | None:
        """Where the endpoints are."""
        return self._endpoints.address if self._endpoints else None

    @property
    def catalog_is_good(self) -> bool:
        """Whether all that the catalog says is in force."""
        return self._catalog.is_good

    @property
    def missing(self) -> tuple[ModelReport, ...]:
        """The models that are to be there and are not."""
        return tuple(filter(is_missing, self._telling.reports() or ()))

    def stop(self) -> None:
        """Have `run` return, within some seconds. May be called from a signal handler's thread."""
        # In a thread of its own: a signal may arrive while this thread holds one of our locks.
        threading.Thread(target=self._cancel.set, daemon=True).start()

    def run(self) -> NodeCache | None:
        """Work until `stop`, or, with `once`, until everything was tried.

        Returns:
            The last report; None when it was stopped before there was one.
        """
        log.info(
            "agent.started",
            version=__version__,
            root=str(self._store.layout.root),
            catalog=self._catalog.place,
            listen=host_and_port(self.address) if self.address else None,
            compile_listen=host_and_port(self._compiled.address)
            if self._compiled.address
            else None,
        )
        self._store.companions.join()
        if self._endpoints:
            self._endpoints.start()
        self._catalog.start()
        for task in self._tasks.values():
            task.start(self._cancel)
        self._compiled.start(self._cancel)
        if self._cluster:
            self._cluster.start(self._cancel)
        self._all_tasks.watch(self._cancel)
        return self._end()

    def _end(self) -> NodeCache | None:
        deadline = time.monotonic() + _END_SECONDS
        self._catalog.stop()
        left = Tasks(self._tasks.values()).join(deadline)
        self._compiled.close(deadline)
        if not left:
            self._crew.join(deadline)
        self._engine.close()
        try:
            if not left:
                # A last round notes how far those came that were stopped.
                self._reconciler.cycle()
                self._reporter.cycle()
            return self._reporter.current()
        except OSError as error:
            log.warning("report.not_written", message=str(error))
            return None
        finally:
            self._store.companions.leave()
            if self._cluster:
                self._cluster.close(max(deadline, time.monotonic() + _LEAVE_SECONDS))
            if self._endpoints:
                self._endpoints.close()
            if self._traces:
                self._traces.close()
            log.info("agent.stopped")

    # The tasks

    def _wake(self) -> None:
        self._tasks["reconcile"].wake()
        self._compiled.wake()

    def _catalog_is_new(self, catalog: Catalog) -> None:
        self._reconciler.catalog = catalog
        self._metrics.origins({m.spec.source.parsed.scheme for m in catalog.models.values()})
        self._compiled.read(catalog)

    def _models_are_gone(self, models: Collection[str]) -> None:
        self._history.forget(models)
        if self._traces:
            self._traces.forget(models)

    def _reconcile(self) -> float:
        with self._reconciling.round():
            wait = self._reconciler.cycle()
        self._end_if_settled()
        return wait

    def _end_if_settled(self) -> None:
        if self._once and (
            self._disk.is_down or (self._reconciler.settled and self._compiled.keeper.settled)
        ):
            self.stop()

    def _disk_changed(self) -> None:
        # A file that is open keeps a file system that died from being unmounted. In a thread of
        # its own: the disk may hang, and who told of that, its watch among them, goes on.
        attend = partial(self._store.companions.attend, lambda: self._disk.is_down)
        threading.Thread(target=attend, name="companions", daemon=True).start()
        self._tasks["report"].wake()
        self._wake()

    def _news(self) -> None:
        self._page.look()
        if self._cluster:
            self._cluster.publish()


def _wanted(report: NodeCache | None) -> dict[str, ModelReport]:
    models = report.status.models if report and report.status else ()
    return {model.name: model for model in models if model.wanted}
