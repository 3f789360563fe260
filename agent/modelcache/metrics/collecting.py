"""Metrics that are collected at each scrape, and the text that a scrape gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from modelcache import __version__
from modelcache.metrics.contract import agent as families
from modelcache.metrics.contract.families import new_registry


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


class ProgramMetrics:
    """One program's registry, which has its version. Safe for threads."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = new_registry()
        self.registry.register(AtScrape(_build))

    def exposition(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self.registry)


def _build() -> Iterable[Metric]:
    build = families.BUILD.collected()
    build.add_metric([], {"version": __version__})
    yield build
