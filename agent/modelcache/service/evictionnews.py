"""What is told of evictions: metrics, and events of this node where there is a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from modelcache.metrics import Metrics
from modelcache.planning.evicting import Going
from modelcache.store import human_size


class NodeEvents(Protocol):
    """Who records Events on this node."""

    def tell(self, type_: str, reason: str, action: str, note: str, model: str) -> None:
        """Record one that has to do with a model; see `cluster.events.Recorder.record`."""


class EvictionNews:
    """Tells metrics, and a cluster if there is one. What is logged is logged where it happens."""

    def __init__(
        self,
        metrics: Metrics,
        cluster: Callable[[], NodeEvents | None],
        on_evicted: Callable[[Going], None] = lambda _: None,
    ) -> None:
        self._metrics = metrics
        self._on_evicted = on_evicted
        self._cluster = cluster

    def evicted(self, going: Going, freed: int) -> None:
        """Something went; `freed` is what that freed really, in bytes."""
        self._metrics.evicted(going.rule.value, freed)
        if going.is_model:
            self._on_evicted(going)
        note = f"{going.model}: evicted, {human_size(freed)} freed: {going.why}"
        self._record("Normal", "Evicted", note, going.model)

    def blocked(self, model: str, message: str) -> None:
        """Nothing that may go makes room enough for a model."""
        self._record("Warning", "EvictionBlocked", message, model)

    def short(self, size: int) -> None:
        """So many bytes are missing for all models together that are wanted and don't fit."""
        self._metrics.short(size)

    def _record(self, type_: str, reason: str, note: str, model: str) -> None:
        cluster = self._cluster()
        if cluster is not None and model:
            cluster.tell(type_, reason, "Evict", note, model)
