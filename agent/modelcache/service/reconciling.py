"""The reconciler: plans, has the plan carried out, and judges what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from modelcache.api import CachedModel, Manifest
from modelcache.catalog import Catalog
from modelcache.errors import ModelCacheError
from modelcache.planning.placement import selects
from modelcache.planning.planner import (
    Action,
    Fetch,
    Limits,
    Resolve,
    Show,
    Stop,
    Withdraw,
    plan,
)
from modelcache.planning.sources import source_digest
from modelcache.planning.trials import Resolved, Trial
from modelcache.service.inventory import Inventory, Snapshots
from modelcache.service.telling import Telling, is_missing
from modelcache.service.working import Crew, Found, Result
from modelcache.store import Store
from modelcache.transfer import delay

log = structlog.get_logger(__name__)

_CYCLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Node:
    """The node, as far as planning looks at it. `labels` None: unknown, every object is meant."""

    name: str
    labels: Mapping[str, str] | None = None


class Reconciler:
    """Keeps the store at what the catalog wants. `cycle` is called from one thread."""

    def __init__(
        self,
        *,
        store: Store,
        inventory: Inventory,
        crew: Crew,
        telling: Telling,
        node: Node,
        limits: Limits,
        stopping: Callable[[], bool],
        wake: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`stopping` says whether nothing new is to begin; `wake` asks for another cycle; `clock`
        gives seconds since the epoch."""
        self._store = store
        self._inventory = inventory
        self._crew = crew
        self._telling = telling
        self._node = node
        self._limits = limits
        self._stopping = stopping
        self._wake = wake
        self._clock = clock
        self._catalog: Catalog | None = None
        self._seen: Catalog | None = None
        self._wanted: dict[str, CachedModel] = {}
        self._trials: dict[str, Trial] = {}
        self._found: dict[str, Found] = {}

    @property
    def catalog(self) -> Catalog | None:
        """The catalog in force; None before the first was read."""
        return self._catalog

    @catalog.setter
    def catalog(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._wake()

    def cycle(self) -> float:
        """One round: take in results, plan, begin what is to begin, tell.

        Returns:
            Seconds until the next round is due.
        """
        catalog = self._catalog
        if catalog is None:
            return _CYCLE_SECONDS
        self._take_in(catalog)
        results = self._crew.results()
        inventory = self._inventory.read()
        for result in results:
            self._judge(result, inventory)
        now = self._clock()
        held = {name: [h for h, _ in pairs] for name, pairs in inventory.items()}
        running = self._crew.running()
        planned = plan(self._wanted, held, self._trials, running, now, self._limits)
        if not self._stopping():
            for action in planned.actions:
                self._begin(action, inventory)
            if any(isinstance(action, Show | Withdraw) for action in planned.actions):
                inventory = self._inventory.read()
        self._telling.update(self._wanted, inventory, self._trials, self._crew.running())
        if planned.wake_at is None:
            return _CYCLE_SECONDS
        return min(_CYCLE_SECONDS, max(0.05, planned.wake_at - now))

    @property
    def settled(self) -> bool:
        """Whether every model is ready or has failed once, and nothing runs."""
        reports = self._telling.reports()
        return (
            reports is not None
            and self._seen is self._catalog
            and not self._crew.running()
            and all(report.attempts or not is_missing(report) for report in reports)
        )

    def _take_in(self, catalog: Catalog) -> None:
        """Turn to a catalog that is new. An object that was changed begins anew, without delay."""
        if catalog is self._seen:
            return
        before, self._seen = self._wanted, catalog
        labels = self._node.labels
        self._wanted = {
            name: model
            for name, model in catalog.models.items()
            if labels is None or selects(model.spec, self._node.name, labels)
        }
        self._telling.catalog_read(catalog)
        for name in {*self._trials, *self._found}:
            old, new = before.get(name), self._wanted.get(name)
            if old is None or new is None or old.spec != new.spec:
                self._trials.pop(name, None)
                self._found.pop(name, None)

    # Carrying out

    def _begin(self, action: Action, inventory: Mapping[str, Snapshots]) -> None:
        """Carry out one action. What fails is this model's failure and no other's."""
        try:
            match action:
                case Stop(name):
                    self._crew.stop(name)
                case Withdraw(name, snapshot):
                    self._withdraw(_manifest(inventory[name], snapshot))
                case Show(name, snapshot):
                    self._show(_manifest(inventory[name], snapshot))
                case Resolve(name):
                    self._crew.start(self._wanted[name], None)
                case Fetch(name):
                    self._crew.start(self._wanted[name], self._found.get(name))
        except (ModelCacheError, OSError) as error:
            model = self._wanted.get(action.name)
            if model is None:
                log.warning("store.failed", model=action.name, message=str(error))
                return
            source = source_digest(model.spec.source)
            self._fail(action.name, self._trials.get(action.name), source, error)

    def _withdraw(self, manifest: Manifest) -> None:
        self._inventory.look_again(manifest)
        damages = self._store.look(manifest)
        if damages:
            log.error(
                "model.damaged",
                model=manifest.model,
                snapshot=manifest.snapshot,
                files=len(damages),
                first=f"{damages[0].path}: {damages[0].what}",
            )
            self._store.withdraw(manifest, damages)
        self._wake()

    def _show(self, manifest: Manifest) -> None:
        self._store.show(manifest)
        log.info("model.shown", model=manifest.model, snapshot=manifest.snapshot)

    # Results

    def _judge(self, result: Result, inventory: Mapping[str, Snapshots]) -> None:
        name, source = result.name, result.what.source
        trial = self._trials.get(name)
        if name not in self._wanted or (result.error is not None and result.stopped):
            return
        if trial is None or trial.source != source:
            trial = Trial(source)
        if result.error is not None:
            self._fail(name, trial, source, result.error)
            return
        if result.found is not None:
            revision = result.found.revision
            now = self._clock()
            trial = trial.found(Resolved(revision.snapshot, revision.id, revision.size, now))
            if _holds(inventory, name, source, revision.snapshot):
                trial = trial.succeeded()
            else:
                self._found[name] = result.found
            self._trials[name] = trial
            return
        self._found.pop(name, None)
        if trial.snapshot is not None and not _holds(inventory, name, source, trial.snapshot):
            # Without a pause it would be fetched again and again.
            lost = ModelCacheError("what was fetched is not there, or not whole, any more")
            self._fail(name, trial, source, lost)
            return
        self._trials[name] = trial.succeeded()

    def _fail(self, name: str, trial: Trial | None, source: str, error: BaseException) -> None:
        if trial is None or trial.source != source:
            trial = Trial(source)
        self._found.pop(name, None)
        now = self._clock()
        self._trials[name] = trial.failed(error, now, delay)


def _manifest(snapshots: Snapshots, snapshot: str) -> Manifest:
    return next(manifest for held, manifest in snapshots if held.snapshot == snapshot)


def _holds(inventory: Mapping[str, Snapshots], name: str, source: str, snapshot: str) -> bool:
    """Whether what the origin holds is here, whole: there is nothing to fetch."""
    return any(
        held.whole and (held.source, held.snapshot) == (source, snapshot)
        for held, _ in inventory.get(name, ())
    )
