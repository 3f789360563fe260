"""The controller's metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.core import Metric

from modelcache.api.cachedmodel import NodeCounts
from modelcache.api.compilecache import CompileNodeCounts
from modelcache.metrics.collecting import AtScrape, ClusterProgramMetrics
from modelcache.metrics.contract import controller


@dataclass(frozen=True, slots=True)
class ControllerState:
    """What is true of the controller at one moment.

    Attributes:
        leading: whether it is the one that writes.
        objects: how many there are, by resource; those of a resource that can't be watched now
            are as they were last seen.
        failing: the resources that can't be watched now.
        models: how far the nodes are with each model; known to the one that leads.
        compile_caches: the same for compile caches.
    """

    leading: bool
    objects: Mapping[str, int]
    failing: Collection[str]
    models: Mapping[str, NodeCounts]
    compile_caches: Mapping[str, CompileNodeCounts] = field(default_factory=dict)


class ControllerMetrics(ClusterProgramMetrics):
    """The controller's registry. Safe for threads."""

    def __init__(self, state: Callable[[], ControllerState]) -> None:
        """`state` gives what is scraped, at each scrape."""
        super().__init__()
        self._state = state
        self.registry.register(AtScrape(self._collect))
        self._writes = controller.WRITES.register(self.registry)
        self._taints = controller.TAINTS_REMOVED.register(self.registry)
        controller.TAINTS_REMOVED.begin(self._taints)

    def wrote(self, resource: str, result: Literal["ok", "conflict", "error"]) -> None:
        """Count a write."""
        self._writes.labels(resource, result).inc()

    def untainted(self, cause: str) -> None:
        """Count a startup taint."""
        self._taints.labels(cause).inc()

    def _collect(self) -> Iterable[Metric]:
        state = self._state()
        yield controller.LEADING.of(float(state.leading))
        objects, failing = controller.OBJECTS.collected(), controller.WATCH_FAILING.collected()
        for resource, number in state.objects.items():
            objects.add_metric([resource], number)
            failing.add_metric([resource], float(resource in state.failing))
        nodes = controller.MODEL_NODES.collected()
        for model, counts in state.models.items():
            for name, number in counts.model_dump().items():
                nodes.add_metric([model, name], number)
        compiled = controller.COMPILE_CACHE_NODES.collected()
        for cache, far in state.compile_caches.items():
            for name, number in far.model_dump().items():
                compiled.add_metric([cache, name], number)
        yield from (objects, failing, nodes, compiled)
