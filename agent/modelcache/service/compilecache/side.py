"""The agent's compile caches, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry

from modelcache.api import CompileCache, NodeCache
from modelcache.api.nodecache import CompileReport
from modelcache.catalog import Catalog
from modelcache.cluster.callers import Callers
from modelcache.compilecache.places.fetching import BundleFetcher
from modelcache.compilecache.places.opening import open_place
from modelcache.compilecache.places.protocol import Place
from modelcache.compilecache.pods.protocol import AUDIENCE
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.starts.marks import Marks
from modelcache.errors import UsageError
from modelcache.metrics import CompileMetrics
from modelcache.origins import OriginSettings
from modelcache.planning.compilebudget import Limits
from modelcache.service.clusterside import ClusterSide
from modelcache.service.compilecache.admitting import bundle_limits
from modelcache.service.compilecache.crew import Crew
from modelcache.service.compilecache.door import Door
from modelcache.service.compilecache.facts import Facts
from modelcache.service.compilecache.keeping import Holdings, Keeper
from modelcache.service.compilecache.keyring import Keyring
from modelcache.service.compilecache.listener import Listener
from modelcache.service.compilecache.outbox import Outbox
from modelcache.service.compilecache.receiving import Receiving
from modelcache.service.compilecache.starts import StartBook
from modelcache.service.compilecache.surroundings import AloneWithCaches
from modelcache.service.diskwatch import DiskWatch
from modelcache.service.heartbeats import Task
from modelcache.service.surroundings import Node
from modelcache.service.unwanted import Keeping
from modelcache.settings import AgentSettings
from modelcache.store import Store
from modelcache.store.durable import Durable
from modelcache.transfer import Cancel, Engine
from modelcache.transfer.events import Listener as Events

_LATE_SECONDS: Final = 600.0


class CompileSide:
    """Keeps compile caches, and takes them from pods where it is asked to."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        store: Store,
        engine: Engine,
        origins: OriginSettings,
        events: Events,
        cluster: ClusterSide | None,
        keeping: Keeping,
        registry: CollectorRegistry,
        before: NodeCache | None,
        disk: DiskWatch,
        cancel: Cancel,
        on_round: Callable[[], None],
    ) -> None:
        """Listen for pods, if that is set. Nothing is begun yet.

        Args:
            settings: the agent's.
            store, engine, origins, events: what fetches, from where, to where, and who is told.
            cluster: the side towards the cluster; None: there is none.
            keeping: what becomes of what nothing wants any more.
            registry: for metrics.
            before: what was reported before this process.
            disk: while it is down nothing new is begun.
            cancel: stops everything.
            on_round: called after each round.

        Raises:
            UsageError: a key can't be read, the address can't be had, or there is no cluster to ask
                who calls.
        """
        durable = Durable(store.layout.scratch)
        holding = Holding(store.layout, durable)
        remembered = before.status.compile_caches if before and before.status else ()
        self._store = store
        self._origins = origins
        self._holding = holding
        self._keys = Keyring(settings.trusted_keys, settings.signing_key)
        facts = Facts(self.wake)
        self._outbox = outbox = Outbox(store.layout, durable)
        marks = Marks(store.layout, durable)
        starts = StartBook(holding, marks, remembered, self.wake)
        self._crew = Crew(
            open_place=self._open_place,
            bring=BundleFetcher(store, engine, events).fetch,
            holding=holding,
            cancel=cancel,
            on_end=self.wake,
            jitter=settings.start_jitter if settings.cluster else 0.0,
        )
        self.keeper = Keeper(
            holdings=Holdings(holding, outbox, marks, starts),
            crew=self._crew,
            facts=facts.look,
            models=store.shown,
            trusted=self._keys.trusted,
            surroundings=cluster or AloneWithCaches(Node(settings.node_name, settings.labels)),
            keeping=keeping,
            remembered=remembered,
            stopping=lambda: cancel.is_set() or disk.is_down,
            limits=Limits(look_seconds=settings.compile_poll),
            bundle_limits=bundle_limits(settings.max_bundle_size),
        )
        metrics = CompileMetrics(registry, self.keeper.reports)
        self._on_round = on_round
        self.task = Task("compile-caches", self._cycle, late_after=_LATE_SECONDS)
        self._listener: Listener | None = None
        if settings.compile_address is not None:
            if cluster is None:
                raise UsageError("--compile-listen needs --cluster: the API server says who calls")
            door = Door(
                identify=Callers(cluster.client, AUDIENCE).identify,
                pod=cluster.pod,
                pods_known=cluster.knows_pods,
                node=settings.node_name,
                asked=self.keeper.asked,
                looked=self.keeper.has_looked,
                best=self.keeper.best,
                signing_key=self._keys.signing_key,
            )
            receiving = Receiving(
                door,
                holding=holding,
                outbox=outbox,
                starts=starts,
                space=store.space,
                max_bytes=settings.max_bundle_size,
                cancel=cancel,
                on_change=self.wake,
                metrics=metrics,
            )
            self._listener = Listener(settings.compile_address, receiving)

    @property
    def address(self) -> tuple[str, int] | None:
        """Where pods are listened for."""
        return self._listener.address if self._listener else None

    def read(self, catalog: Catalog) -> None:
        """There is another catalog."""
        self.keeper.catalog = catalog
        self.wake()

    def wake(self) -> None:
        """Have the next round at once."""
        self.task.wake()

    def reports(self) -> tuple[CompileReport, ...]:
        """What is to be said of each compile cache."""
        return self.keeper.reports()

    def sweep(self) -> None:
        """Remove what hands and crashes left."""
        self._holding.sweep()
        held = {(each.name, f"sha256:{each.digest}") for each in self._holding.all()}
        self._outbox.sweep(held)

    def start(self, cancel: Cancel) -> None:
        """Begin, until `cancel` is set."""
        if self._listener is not None:
            self._listener.start()
        self.task.start(cancel)

    def close(self, deadline: float) -> None:
        """After `cancel` is set: wait until a moment of `time.monotonic`, and stop listening."""
        if self._listener is not None:
            self._listener.close()
        if self.task.join(deadline):
            self._crew.join(deadline)

    def _cycle(self) -> float:
        wait = self.keeper.cycle()
        self._on_round()
        return wait

    def _open_place(self, cache: CompileCache) -> Place:
        bundles = cache.spec.bundles
        return open_place(bundles.uri, bundles.secret_name, self._origins)
