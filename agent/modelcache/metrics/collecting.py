"""Metrics that are collected at each scrape, and what all programs tell of themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from modelcache import __version__
from modelcache.metrics.contract import programs
from modelcache.metrics.contract.families import new_registry
from modelcache.metrics.contract.labels import CODE, REQUESTED


class AtScrape(Collector):
    """What a function gives, asked at each scrape and not before."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def describe(self) -> Iterable[Metric]:
        """Nothing: to say it would be to ask."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """What there is now."""
        return self._collect()


@dataclass(frozen=True, slots=True)
class TaskState:
    """One of a program's loops: how many of its rounds failed, and whether it hangs now."""

    name: str
    failures: int
    hung: bool


class ProgramMetrics:
    """One program's registry, which has its version and its loops. Safe for threads."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = new_registry()
        self.registry.register(AtScrape(_build))

    def follow(self, tasks: Callable[[], Iterable[TaskState]]) -> None:
        """Have the program's loops among what is collected."""
        self.registry.register(AtScrape(partial(_loops, tasks)))

    def exposition(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self.registry)


class ClusterProgramMetrics(ProgramMetrics):
    """That of a program that speaks to an API server."""

    def __init__(self) -> None:
        super().__init__()
        self._requests = programs.API_REQUESTS.register(self.registry)

    def answered(self, resource: str, verb: str, code: str) -> None:
        """Count a request; `code` is empty where no answer came."""
        self._requests.labels(REQUESTED.of(resource), verb, CODE.of(code)).inc()


def _build() -> Iterable[Metric]:
    build = programs.BUILD.collected()
    build.add_metric([], {"version": __version__})
    yield build


def _loops(tasks: Callable[[], Iterable[TaskState]]) -> Iterable[Metric]:
    failures, hung = programs.TASK_FAILURES.collected(), programs.TASK_HUNG.collected()
    for task in tasks():
        failures.add_metric([task.name], task.failures)
        hung.add_metric([task.name], float(task.hung))
    yield from (failures, hung)
