"""The keeper: has this node's compile caches be as the catalog wants them, round by round.

What `service.reconciling` is for models. A round touches this node's own disk and nothing else:
whatever may hang (a place, a driver, the API server) is asked in other threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from modelcache.api import CompileCache, Manifest
from modelcache.api.nodecache import CompileReport
from modelcache.catalog import Catalog
from modelcache.compilecache.bundles.signing import TrustedKeys
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.keys.facts import NodeFacts
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.starts.marks import Marks
from modelcache.compilecache.starts.using import InUse
from modelcache.compilecache.trees.scanning import Limits as TreeLimits
from modelcache.errors import ModelCacheError
from modelcache.planning.compileactions import (
    Action,
    Discard,
    Fetch,
    Hide,
    Look,
    Publish,
    Remove,
    Show,
    Stop,
)
from modelcache.planning.compilebudget import Limits
from modelcache.planning.compilecaches import plan
from modelcache.planning.compilechoosing import Need
from modelcache.planning.placement import selects
from modelcache.service.compilecache.bundles import Bundles, Known
from modelcache.service.compilecache.crew import Crew
from modelcache.service.compilecache.jobs import Job
from modelcache.service.compilecache.needs import Asked, Needs
from modelcache.service.compilecache.outbox import Outbox
from modelcache.service.compilecache.starts import StartBook
from modelcache.service.compilecache.surroundings import CompileSurroundings
from modelcache.service.compilecache.telling import Round, Telling
from modelcache.service.compilecache.tries import Tries
from modelcache.service.compilecache.unwanted import Unwanted
from modelcache.service.unwanted import Keeping

log = structlog.get_logger(__name__)

CYCLE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a keeper works on: all of one root."""

    holding: Holding
    outbox: Outbox
    marks: Marks
    starts: StartBook


class Keeper:
    """Keeps compile caches. `cycle` is a task's; the rest may be asked from any thread."""

    def __init__(
        self,
        *,
        holdings: Holdings,
        crew: Crew,
        facts: Callable[[Mapping[str, str]], tuple[NodeFacts | None, str]],
        models: Callable[[], Mapping[str, Manifest]],
        trusted: Callable[[], TrustedKeys],
        surroundings: CompileSurroundings,
        keeping: Keeping,
        remembered: tuple[CompileReport, ...],
        stopping: Callable[[], bool],
        limits: Limits,
        bundle_limits: TreeLimits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            holdings, crew: what is on this node, and who brings the rest.
            facts: what a node with some labels compiles for, or why that is not known.
            models: the models that are shown on this node.
            trusted: the keys whose signatures are trusted.
            surroundings: the cluster.
            keeping: what becomes of what nothing wants any more.
            remembered: what was last reported: true until this process knows better.
            stopping: whether nothing new is to begin.
            limits: how much may run at once.
            bundle_limits: of what is taken.
            clock: seconds since the epoch.
        """
        self._holdings = holdings
        self._crew = crew
        self._facts = facts
        self._models = models
        self._trusted = trusted
        self._surroundings = surroundings
        self._stopping = stopping
        self._limits = limits
        self._bundle_limits = bundle_limits
        self._clock = clock
        self._needs = Needs()
        self._bundles = Bundles(holdings.holding, holdings.outbox)
        self._tries = Tries(holdings.holding, holdings.outbox, clock)
        self._unwanted = Unwanted(keeping)
        self._keys = TrustedKeys()
        self._telling = Telling(holdings.holding, holdings.starts, remembered)
        self._mutex = threading.Lock()
        self._asked: Mapping[str, Asked] = {}
        self._best: Mapping[str, Known] = {}
        self._round: tuple[Catalog, Mapping[str, Manifest]] | None = None
        self._busy: frozenset[str] = frozenset()
        self._bytes = 0
        self.catalog: Catalog | None = None
        """The catalog in force; None before the first was read."""

    def cycle(self) -> float:
        """One round: take in results, plan, begin what is to begin, tell.

        Returns:
            Seconds until the next round is due.
        """
        catalog, node = self.catalog, self._surroundings.node()
        if catalog is None or node is None:
            return CYCLE_SECONDS
        wanted = {
            name: cache
            for name, cache in catalog.compile_caches.items()
            if node.labels is None or selects(cache.spec, node.name, node.labels)
        }
        facts, why = self._facts(node.labels or {}) if wanted else (None, "")
        models = self._models()
        asked = self._needs.of(wanted, facts, why, models)
        self._turn_to_keys()
        for result in self._crew.results():
            try:
                self._tries.judge(result, asked)
            except (ModelCacheError, OSError) as error:
                # This node's own disk; what it was about is tried again.
                log.warning("store.failed", compile_cache=result.job.work.name, message=str(error))
        known = self._read(asked)
        orphans = self._unwanted.orphans(catalog, asked, known)
        needs = {name: self._need(name, each) for name, each in asked.items()}
        now = self._clock()
        held = {name: [each.bundle for each in found] for name, found in known.items()}
        self._tries.keep(needs)
        running, kept = self._crew.running(), self._surroundings.kept_compile_caches()
        planned = plan(
            needs,
            held,
            self._tries.trials,
            running,
            now,
            self._limits,
            left_behind=self._crew.left_behind(),
            permitted=self._surroundings.permitted_bundles(),
            idle_since=self._unwanted.idle(needs, held, now),
            removal=self._unwanted.removal(catalog, needs, held, kept, now),
        )
        fetching = [what.work for what in running.values()] + list(planned.actions)
        digests = {work.digest for work in fetching if isinstance(work, Fetch)}
        digests |= {*planned.permitted}
        most = len(digests) + planned.room
        self._surroundings.want_bundles(digests | {*planned.unpermitted}, most)
        if not self._stopping():
            for action in planned.actions:
                self._begin(action, asked, needs)
            for name in orphans:
                self._begin(Hide(name), asked, needs)
            if orphans or any(
                isinstance(a, Show | Hide | Discard | Remove) for a in planned.actions
            ):
                known = self._read(asked)
        running = self._crew.running()
        self._telling.update(
            Round(catalog, asked, needs, known, self._tries.trials, running, planned.waiting, facts)
        )
        shown = {name: each for name, mine in known.items() for each in mine if each.bundle.shown}
        busy = {*running, *planned.waiting}
        busy |= {
            name for name, need in needs.items() if need.key and not self._tries.was_tried(name)
        }
        with self._mutex:
            self._asked, self._best = asked, shown
            self._round, self._busy = (catalog, models), frozenset(busy)
        if planned.wake_at is None:
            return CYCLE_SECONDS
        return min(CYCLE_SECONDS, max(0.05, planned.wake_at - now))

    # For others

    def asked(self, name: str) -> Asked | None:
        """An object that selects this node, as of the last round."""
        with self._mutex:
            return self._asked.get(name)

    def has_looked(self) -> bool:
        """Whether there was a round: before it, no object is known to select this node."""
        with self._mutex:
            return self._round is not None

    def best(self, name: str) -> Known | None:
        """The bundle that an object's starts are seeded from, as of the last round."""
        with self._mutex:
            return self._best.get(name)

    def reports(self) -> tuple[CompileReport, ...]:
        """What is to be said of each object, by name."""
        return self._telling.reports()

    @property
    def bytes(self) -> int:
        """Bytes of all bundles on this node, as of the last round."""
        return self._bytes

    @property
    def settled(self) -> bool:
        """Whether the last round knew all that is known now, every place was asked, and nothing
        runs."""
        with self._mutex:
            round_, busy, asked = self._round, self._busy, self._asked
        if round_ is None or round_[0] is not self.catalog or round_[1] != self._models():
            return False
        # Without a key for a good reason nothing is to come.
        return not busy and all(each.key is not None or each.why for each in asked.values())

    # The parts of a round

    def _turn_to_keys(self) -> None:
        """Begin anew where others are trusted than before: what was refused may be taken now."""
        keys = self._trusted()
        if [*keys] != [*self._keys]:
            self._tries.forget()
        self._keys = keys

    def _trust(self, cache: CompileCache) -> Trust:
        return Trust(self._keys, frozenset(cache.spec.bundles.digests))

    def _read(self, asked: Mapping[str, Asked]) -> dict[str, tuple[Known, ...]]:
        trusts = {name: self._trust(each.cache) for name, each in asked.items()}
        found = self._bundles.read(trusts, Trust(self._keys))
        self._bytes = sum(each.held.bytes for known in found.values() for each in known)
        return found

    def _need(self, name: str, asked: Asked) -> Need:
        key = asked.key.digest if asked.key is not None else None
        withdrawn = self._surroundings.withdrawn(name) | frozenset(
            each.digest for each in self._holdings.starts.withdrawn(name)
        )
        return Need(
            spec=asked.spec,
            place=asked.place,
            key=key,
            published=self._surroundings.published(name, key),
            withdrawn=withdrawn,
        )

    # Carrying out

    def _begin(self, action: Action, asked: Mapping[str, Asked], needs: Mapping[str, Need]) -> None:
        """Carry out one action. What fails is this object's failure and no other's."""
        holding, name = self._holdings.holding, action.name
        try:
            match action:
                case Stop():
                    self._crew.stop(name)
                case Show(_, key, digest):
                    holding.show(name, key, digest)
                    log.info("bundle.shown", compile_cache=name, digest=digest)
                case Hide():
                    holding.hide(name)
                    log.warning("bundle.hidden", compile_cache=name)
                case Discard(_, key, digest):
                    with suppress(InUse):
                        freed = holding.remove(name, key, digest)
                        self._holdings.outbox.take(name, digest)
                        log.info(
                            "bundle.removed", compile_cache=name, digest=digest, freed_bytes=freed
                        )
                case Remove():
                    with suppress(InUse):
                        freed = holding.forget(name)
                        for digest in self._holdings.outbox.of(name):
                            self._holdings.outbox.take(name, digest)
                        log.info("compile_cache.removed", compile_cache=name, freed_bytes=freed)
                case Look() | Fetch() | Publish():
                    self._start(action, asked[name], needs[name])
        except (ModelCacheError, OSError) as error:
            if name not in asked:
                log.warning("store.failed", compile_cache=name, message=str(error))
                return
            self._tries.fail(name, asked[name], error)

    def _start(self, work: Look | Fetch | Publish, asked: Asked, need: Need) -> None:
        assert asked.key is not None
        job = Job(
            work=work,
            spec=asked.spec,
            cache=asked.cache,
            key=asked.key,
            trust=self._trust(asked.cache),
            place=need.place,
            limits=self._bundle_limits,
            hinted=need.published,
            explain=isinstance(work, Look) and self._tries.explains(work.name),
        )
        self._crew.start(job)
