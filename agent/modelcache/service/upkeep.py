"""What keeps the content of the store good while nothing else is to be done: reading it back,
proving what was adopted, sweeping what is left over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry

from modelcache.compilecache.starts.holding import Holding
from modelcache.metrics import ScrubMetrics
from modelcache.service.adopting import Prover
from modelcache.service.diskwatch import DiskWatch
from modelcache.service.evictionnews import NodeEvents
from modelcache.service.heartbeats import Task
from modelcache.service.scrubbing import Scrubber
from modelcache.settings import AgentSettings
from modelcache.store import Store
from modelcache.store.durable import Durable
from modelcache.transfer import Cancel

_SWEEP_SECONDS: Final = 3600.0
# A read at the idle priority waits for as long as others read.
_LATE_SECONDS: Final = 6 * 3600.0


class Upkeep:
    """The tasks of it: `tasks`, by name."""

    def __init__(
        self,
        settings: AgentSettings,
        store: Store,
        *,
        disk: DiskWatch,
        registry: CollectorRegistry,
        cancel: Cancel,
        busy: Callable[[], bool],
        priorities: Callable[[], Mapping[str, int]],
        swept_after: Callable[[], float],
        sweep_others: Callable[[], None],
        on_change: Callable[[], None],
        told: NodeEvents,
    ) -> None:
        """Nothing is read yet.

        Args:
            settings, store, disk, registry, cancel: whose content, on which disk, counted where,
                ended how.
            busy: whether bytes are being fetched, which reading back waits for.
            priorities: of the models that are wanted, by name.
            swept_after: for how many seconds what crashes and fetches left is kept.
            sweep_others: sweeps what is not the store's.
            on_change: called when content was found damaged, or proven.
            told: who records events.
        """
        self._store = store
        self._disk = disk
        self._swept_after = swept_after
        self._sweep_others = sweep_others
        scrubber = Scrubber(
            store=store,
            holding=Holding(store.layout, Durable(store.layout.scratch)),
            every=settings.scrub_every,
            rate=settings.scrub_rate,
            busy=busy,
            disk=disk,
            metrics=ScrubMetrics(registry),
            cancel=cancel,
            on_damage=on_change,
            told=told,
        )
        prover = Prover(store, disk=disk, cancel=cancel, priorities=priorities, on_change=on_change)
        self.tasks = {
            "scrub": Task("scrub", scrubber.cycle, late_after=_LATE_SECONDS),
            "prove": Task("prove", prover.cycle, late_after=_LATE_SECONDS),
            "sweep": Task("sweep", self._sweep, late_after=3 * _SWEEP_SECONDS),
        }

    def _sweep(self) -> float:
        if not self._disk.is_down:
            self._store.sweep(older_than=self._swept_after())
            self._sweep_others()
        return _SWEEP_SECONDS
