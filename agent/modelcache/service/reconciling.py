"""The reconciler: plans, has the plan carried out, and judges what came of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from modelcache.api import CachedModel, Manifest
from modelcache.catalog import Catalog
from modelcache.errors import ModelCacheError, Reason
from modelcache.host.booting import Jumps
from modelcache.planning.candidates import Wish, candidates
from modelcache.planning.leftovers import Leftover
from modelcache.planning.placement import selects
from modelcache.planning.planner import (
    Action,
    Fetch,
    Limits,
    Plan,
    Remove,
    Resolve,
    Running,
    Show,
    Stop,
    Withdraw,
    plan,
)
from modelcache.planning.sources import source_digest
from modelcache.planning.trials import Resolved, Trial
from modelcache.service.diskwatch import DiskWatch
from modelcache.service.evicting import Evicting
from modelcache.service.inventory import Inventory, Snapshots
from modelcache.service.permitting import permitted, wanted_permits
from modelcache.service.remaining import Needed, remaining
from modelcache.service.surroundings import Node, Surroundings
from modelcache.service.telling import Telling, is_missing
from modelcache.service.unwanted import Keeping, Unwanted
from modelcache.service.working import Crew, Found, Result
from modelcache.store import Store
from modelcache.transfer import delay

log = structlog.get_logger(__name__)

_CYCLE_SECONDS = 10.0
_PENDING_SECONDS = 1.0
"""While something is to go."""


class Reconciler:
    """Keeps the store at what the catalog wants. `cycle` is called from one thread."""

    def __init__(
        self,
        *,
        store: Store,
        inventory: Inventory,
        crew: Crew,
        telling: Telling,
        surroundings: Surroundings,
        evicting: Evicting,
        limits: Limits,
        keeping: Keeping,
        stopping: Callable[[], bool],
        wake: Callable[[], None],
        last_used: Callable[[str, str], float | None] = lambda *_: None,
        disk: DiskWatch | None = None,
        clock: Callable[[], float] = time.time,
        jumps: Jumps | None = None,
    ) -> None:
        """`stopping` says whether nothing new is to begin; `wake` asks for another cycle;
        `last_used` gives when a model's snapshot was last used, as `clock` gives the time: in
        seconds since the epoch; `disk` is left alone while it is down; `jumps` are of `clock`,
        where it may be set."""
        self._store = store
        self._inventory = inventory
        self._crew = crew
        self._telling = telling
        self._surroundings = surroundings
        self._evicting = evicting
        self._limits = limits
        self._stopping = stopping
        self._disk = disk or DiskWatch(store.layout)
        self._wake = wake
        self._clock = clock
        self._catalog: Catalog | None = None
        self._seen: tuple[Catalog, Node] | None = None
        self._wanted: dict[str, CachedModel] = {}
        self._trials: dict[str, Trial] = {}
        self._found: dict[str, Found] = {}
        self._unwanted = Unwanted(keeping, surroundings, jumps)
        self._outdated: set[str] = set()
        self._last_used = last_used

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
        catalog, node = self._catalog, self._surroundings.node()
        if catalog is None or node is None:
            return _CYCLE_SECONDS
        if self._disk.is_down:
            return self._leave_alone()
        self._take_in(catalog, node)
        results = self._crew.results()
        try:
            inventory = self._inventory.read()
        except OSError as error:
            if self._disk.is_to_blame(error):
                return self._leave_alone()
            raise
        for result in results:
            self._judge(result, inventory)
        now = self._clock()
        held = {name: [h for h, _ in pairs] for name, pairs in inventory.items()}
        running = self._crew.running()
        planned = plan(
            self._wanted,
            held,
            self._trials,
            running,
            now,
            self._limits,
            permitted=permitted(self._surroundings.permitted(), self._trials),
            removal=self._unwanted.look(catalog, held, self._wanted, now),
        )
        self._want_permits(planned, running)
        if not self._stopping():
            self._look_at_room(inventory, running)
            for action in planned.actions:
                self._begin(action, inventory)
            evicted = self._evicting.carry_out(self._stop_what_leaves)
            if evicted:
                self._try_again_for_room()
            changing = Show | Withdraw | Remove
            if evicted or any(isinstance(action, changing) for action in planned.actions):
                inventory = self._inventory.read()
        self._telling.update(
            self._wanted,
            inventory,
            self._trials,
            self._crew.running(),
            planned.waiting,
            unwanted=self._unwanted.since,
            leaving=self._evicting.leaving,
            without_room=self._evicting.waiting,
        )
        longest = _PENDING_SECONDS if self._evicting.pending else _CYCLE_SECONDS
        if planned.wake_at is None:
            return longest
        return min(longest, max(0.05, planned.wake_at - now))

    def _leave_alone(self) -> float:
        """Stop what runs, and begin nothing, till the disk is well: what is reported stays."""
        for name in self._crew.running():
            self._crew.stop(name)
        self._crew.results()
        return _CYCLE_SECONDS

    @property
    def settled(self) -> bool:
        """Whether every model is ready or has failed once, and nothing runs."""
        reports = self._telling.reports()
        return (
            reports is not None
            and self._seen is not None
            and self._seen[0] is self._catalog
            and not self._crew.running()
            and all(report.attempts or not is_missing(report) for report in reports)
        )

    def _take_in(self, catalog: Catalog, node: Node) -> None:
        """Turn to a catalog or to labels of the node that are new.

        An object that was changed begins anew, without delay.
        """
        if self._seen is not None and self._seen[0] is catalog and self._seen[1] == node:
            return
        before, self._seen = self._wanted, (catalog, node)
        self._wanted = {
            name: model
            for name, model in catalog.models.items()
            if node.labels is None or selects(model.spec, node.name, node.labels)
        }
        self._telling.catalog_read(catalog)
        for name in {*self._trials, *self._found}:
            old, new = before.get(name), self._wanted.get(name)
            if old is None or new is None or old.spec != new.spec:
                self._trials.pop(name, None)
                self._found.pop(name, None)

    # Room

    def _look_at_room(
        self, inventory: Mapping[str, Snapshots], running: Mapping[str, Running]
    ) -> None:
        there = candidates(
            {name: Wish.of(model) for name, model in self._wanted.items()},
            inventory,
            self._trials,
            self._unwanted.since,
            last_used=self._last_used,
            block=self._store.space.block,
        )
        missing = {n for n, trial in self._trials.items() if trial.resolved or trial.failures}
        fetching = {name for name, what in running.items() if what.kind is Fetch}
        left = functools.partial(self._remaining, inventory)
        self._evicting.look(there, missing, fetching, left)
        if self._evicting.eased:
            self._try_again_for_room()

    def _remaining(
        self, inventory: Mapping[str, Snapshots], fetching: Mapping[str, int]
    ) -> tuple[Leftover, ...]:
        assert self._catalog is not None
        known = Needed(self._wanted, inventory, self._trials, self._found, fetching)
        doubts = self._unwanted.doubts(self._catalog)
        try:
            return remaining(self._store, known, doubts, self._clock())
        except OSError as error:
            # What can't be read makes no room, and holds up no model.
            self._disk.noted(error)
            log.warning("leftovers.unreadable", message=str(error))
            return ()

    def _fetch(self, name: str) -> None:
        """Begin to fetch, as soon as there is room."""
        model, found = self._wanted[name], self._found.get(name)
        if found is not None:
            if name in self._outdated:
                found = self._found[name] = self._crew.look_again(model, found)
                self._outdated.discard(name)
            if not self._evicting.admit(name, model.spec.priority, found.missing):
                return
        self._crew.start(model, found)

    def _stop_what_leaves(self, name: str) -> None:
        if name in self._crew.running():
            self._crew.stop(name)
            # What it has by then counts, if that stays.
            self._outdated |= {name} & self._found.keys()

    def _try_again_for_room(self, after: str | None = None) -> None:
        """What didn't fit may fit now; and what was counted as here may be gone.

        After a fetch, which held room that nobody could have: what is more important than that, and
        the next one in line. Not all: each asks its origin again, and the rest would be refused.
        """
        self._outdated = set(self._found)
        refused = {
            name: trial
            for name, trial in self._trials.items()
            if trial.reason is Reason.INSUFFICIENT_DISK
        }
        if after is not None:
            priorities = {n: self._wanted[n].spec.priority for n in refused if n in self._wanted}
            bound = self._wanted[after].spec.priority
            following = max(priorities, key=priorities.__getitem__, default=None)
            refused = {
                name: refused[name]
                for name, priority in priorities.items()
                if priority > bound or name == following
            }
        for name, trial in refused.items():
            self._trials[name] = replace(trial, retry_at=min(trial.retry_at, self._clock()))
        self._wake()

    def _want_permits(self, planned: Plan, running: Mapping[str, Running]) -> None:
        fetching = [name for name, what in running.items() if what.kind is Fetch]
        beginning = [action.name for action in planned.actions if isinstance(action, Fetch)]
        names = (*fetching, *beginning, *planned.waiting)
        most = len(fetching) + len(beginning) + planned.room
        permits = wanted_permits(names, self._wanted, self._trials)
        self._surroundings.want_permits(permits, most)

    # Carrying out

    def _begin(self, action: Action, inventory: Mapping[str, Snapshots]) -> None:
        """Carry out one action. What fails is this model's failure and no other's."""
        if isinstance(action, Fetch | Resolve) and action.name in self._evicting.leaving:
            return
        try:
            match action:
                case Stop(name):
                    self._crew.stop(name)
                case Withdraw(name, snapshot):
                    self._withdraw(_manifest(inventory[name], snapshot))
                case Show(name, snapshot):
                    self._show(_manifest(inventory[name], snapshot))
                case Remove(name):
                    self._remove(name)
                case Resolve(name):
                    self._crew.start(self._wanted[name], None)
                case Fetch(name):
                    self._fetch(name)
        except (ModelCacheError, OSError) as error:
            model = self._wanted.get(action.name)
            if model is None:
                self._disk.noted(error)
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

    def _remove(self, name: str) -> None:
        snapshots = tuple(manifest.snapshot for manifest in self._store.snapshots(name))
        freed = self._store.evict(name)
        log.info("model.removed", model=name, freed_bytes=freed)
        self._evicting.gone(name, snapshots, freed)
        self._try_again_for_room()

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
        self._try_again_for_room(after=name)
        if trial.snapshot is not None and not _holds(inventory, name, source, trial.snapshot):
            # Without a pause it would be fetched again and again.
            lost = ModelCacheError("what was fetched is not there, or not whole, any more")
            self._fail(name, trial, source, lost)
            return
        self._trials[name] = trial.succeeded()

    def _fail(self, name: str, trial: Trial | None, source: str, error: BaseException) -> None:
        self._disk.noted(error)
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
