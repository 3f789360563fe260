"""The daemon's reconciler in this process, with its threads and a clock that tests turn."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from modelcache.api import CachedModel, ModelReport
from modelcache.catalog import Catalog, Document
from modelcache.host.booting import Jumps
from modelcache.origins import OriginSettings
from modelcache.planning.evicting import Going
from modelcache.planning.planner import Limits
from modelcache.service.diskwatch import DiskWatch
from modelcache.service.evicting import Evicting, Rules
from modelcache.service.inventory import Inventory
from modelcache.service.progress import ProgressBook
from modelcache.service.reconciling import Reconciler
from modelcache.service.surroundings import Alone, Node, Surroundings
from modelcache.service.telling import Telling
from modelcache.service.unwanted import Keeping
from modelcache.service.working import Crew
from modelcache.store import Capacity, KeepFree, Store
from modelcache.transfer import Cancel, Engine, ModelFetcher
from modelcache.transfer.events import fan_out
from tests.support.fetching import QUICK


class Evictions:
    """What was told of them."""

    def __init__(self) -> None:
        self.gone: list[tuple[str, str]] = []
        self.refusals: list[str] = []
        self.missing = 0

    def evicted(self, going: Going, freed: int) -> None:
        assert freed >= 0
        self.gone.append((going.rule.value, going.model))

    def blocked(self, model: str, message: str) -> None:
        self.refusals.append(message)

    def short(self, size: int) -> None:
        self.missing = size


class Daemon:
    """One node's reconciler. `now` is its clock."""

    def __init__(
        self,
        root: Path,
        surroundings: Surroundings | None = None,
        keeping: Keeping = Keeping(),  # noqa: B008 - it never changes
        jitter: float = 0.0,
        *,
        capacity: Capacity | None = None,
        keep_free: KeepFree | None = None,
        jumps: Jumps | None = None,
    ) -> None:
        self.now = time.time()
        self.news = threading.Event()
        self.cancel = Cancel()
        self.store = Store(root, capacity=capacity, keep_free=keep_free)
        self.engine = Engine(QUICK)
        self.disk = DiskWatch(self.store.layout)
        self.inventory = Inventory(self.store, self.disk.is_to_blame)
        progress = ProgressBook()
        self.telling = Telling(progress, self.inventory.paths)
        self.crew = Crew(
            fetcher=ModelFetcher(self.store, self.engine, fan_out(progress)),
            origins=OriginSettings(root=root, file_roots=(root.parent,)),
            progress=progress,
            cancel=self.cancel,
            on_end=self.news.set,
            jitter=jitter,
        )
        self.evictions = Evictions()
        surroundings = surroundings or Alone(Node("n"))
        self.evicting = Evicting(
            store=self.store,
            surroundings=surroundings,
            rules=Rules(keeping.seconds),
            told=self.evictions,
            clock=lambda: self.now,
        )
        self.reconciler = Reconciler(
            store=self.store,
            inventory=self.inventory,
            crew=self.crew,
            telling=self.telling,
            surroundings=surroundings,
            evicting=self.evicting,
            limits=Limits(),
            keeping=keeping,
            stopping=self.cancel.is_set,
            wake=self.news.set,
            disk=self.disk,
            clock=lambda: self.now,
            jumps=jumps,
        )

    def want(self, *models: CachedModel) -> None:
        """A new catalog."""
        self.reconciler.catalog = Catalog.of(
            Document(object=m, file="f.yaml", number=1, line=1) for m in models
        )

    def later(self, seconds: float) -> None:
        """So much time passes, for the real clock, which manifests are dated by, as well."""
        self.now = max(self.now, time.time()) + seconds

    def cycle(self) -> float:
        """One round."""
        self.news.clear()
        return self.reconciler.cycle()

    def settle(self, rounds: int = 50) -> None:
        """Rounds as they are asked for, until everything was tried and nothing runs."""
        for _ in range(rounds):
            self.cycle()
            if self.reconciler.settled:
                self.await_threads()
                return
            assert self.news.wait(20), f"nothing happens: {self.telling.reports()}"
        raise AssertionError(f"it never comes to rest: {self.telling.reports()}")

    def await_threads(self) -> None:
        """A thread whose result was taken may still be about to say that it has ended."""
        for thread in threading.enumerate():
            if thread.name.startswith(("resolve-", "fetch-")):
                thread.join(10)

    def report(self, name: str = "m") -> ModelReport:
        """What is said of a model."""
        return next(r for r in self.telling.reports() or () if r.name == name)

    def close(self) -> None:
        """End its threads."""
        self.cancel.set()
        self.engine.close()


def cached_model(uri: str, name: str = "m", **spec: Any) -> CachedModel:
    source: dict[str, Any] = {"uri": uri}
    source |= {key: spec.pop(key) for key in ("include", "secretName") if key in spec}
    return CachedModel.from_document(
        {
            "apiVersion": "modelcache.dev/v1alpha1",
            "kind": "CachedModel",
            "metadata": {"name": name},
            "spec": {"source": source, **spec},
        }
    )
