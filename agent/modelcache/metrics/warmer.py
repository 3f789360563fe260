"""The warmer's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client.core import Metric

from modelcache.metrics.collecting import AtScrape, ProgramMetrics
from modelcache.metrics.contract import warmer


@dataclass(frozen=True, slots=True)
class WarmModel:
    """One model that is to be in memory, in bytes. `missing`: what the budget lacks for it."""

    name: str
    size: int
    resident: int
    missing: int


@dataclass(frozen=True, slots=True)
class WarmerState:
    """What is true of the warmer at one moment; `budget` in bytes."""

    budget: int
    models: tuple[WarmModel, ...]


class WarmerMetrics(ProgramMetrics):
    """The warmer's registry. Safe for threads."""

    def __init__(self, state: Callable[[], WarmerState | None]) -> None:
        """`state` gives what was last looked at, at each scrape; None: nothing yet."""
        super().__init__()
        self._state = state
        self.registry.register(AtScrape(self._collect))
        self._read = warmer.READ_BYTES.register(self.registry)
        self._dropped = warmer.DROPPED_BYTES.register(self.registry)
        warmer.DROPPED_BYTES.begin(self._dropped)
        self._failures = warmer.FAILURES.register(self.registry)

    def read(self, size: int) -> None:
        """Count what was read, in bytes."""
        self._read.inc(size)

    def dropped(self, cause: str, size: int) -> None:
        """Count what was dropped, in bytes."""
        self._dropped.labels(cause).inc(size)

    def failed(self) -> None:
        """Count a failure."""
        self._failures.inc()

    def _collect(self) -> Iterable[Metric]:
        state = self._state()
        if state is None:
            return
        yield warmer.BUDGET_BYTES.of(state.budget)
        size, resident = warmer.SIZE_BYTES.collected(), warmer.RESIDENT_BYTES.collected()
        missing = warmer.MISSING_BYTES.collected()
        for model in state.models:
            size.add_metric([model.name], model.size)
            resident.add_metric([model.name], model.resident)
            missing.add_metric([model.name], model.missing)
        yield from (size, resident, missing)
