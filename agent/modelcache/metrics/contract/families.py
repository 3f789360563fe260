"""What a family of metrics is, and how the programs make it.

Names, units and kinds are as https://prometheus.io/docs/practices/naming/ has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import ClassVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics import MetricWrapperBase


class Program(StrEnum):
    """Who exposes it."""

    AGENT = "agent"
    TUNER = "tuner"
    WARMER = "warmer"
    CONTROLLER = "controller"
    WEBHOOK = "webhook"

    @property
    def job(self) -> str:
        """The label `job` of what is scraped from it."""
        return f"modelcache-{self}"


@dataclass(frozen=True, slots=True)
class Label:
    """A label, whose values are bounded in number.

    Attributes:
        name: as it is written.
        about: what its values are.
        values: all that there can be, the last perhaps for all others; None: names of objects, as
            many as there are of them.
    """

    name: str
    about: str
    values: tuple[str, ...] | None = None

    def of(self, value: str) -> str:
        """The value, or the set's last where it has none such."""
        return value if self.values is None or value in self.values else self.values[-1]


@dataclass(frozen=True, slots=True)
class Family:
    """A family of metrics.

    Attributes:
        name: as it is queried; a histogram's without `_bucket`, `_sum` and `_count`.
        help: what it is, as a sentence that begins with what is counted.
        labels: in the order in which values are given.
        programs: who exposes it.
    """

    name: str
    help: str
    labels: tuple[Label, ...] = ()
    programs: tuple[Program, ...] = (Program.AGENT,)

    kind: ClassVar[str]

    @property
    def exposed(self) -> tuple[str, ...]:
        """The names of its series."""
        return (self.name,)

    def begin(self, metric: MetricWrapperBase, **given: str) -> None:
        """Have each series of closed sets at nought: what grows is seen only of what is there.

        `given` has the values of labels that are not to take all of theirs.
        """
        sets = [(given[e.name],) if e.name in given else e.values or () for e in self.labels]
        for values in product(*sets):
            metric.labels(*values)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of its labels."""
        return tuple(label.name for label in self.labels)


@dataclass(frozen=True, slots=True)
class CounterFamily(Family):
    """What only grows, till the program is started anew."""

    kind = "counter"

    def register(self, registry: CollectorRegistry) -> Counter:
        """A counter; without labels it begins at nought, with them at the first event."""
        return Counter(self._base, self.help, self.label_names, registry=registry)

    def collected(self) -> CounterMetricFamily:
        """One whose values somebody else keeps."""
        return CounterMetricFamily(self._base, self.help, labels=self.label_names)

    @property
    def _base(self) -> str:
        return self.name.removesuffix("_total")


@dataclass(frozen=True, slots=True)
class GaugeFamily(Family):
    """What goes up and down."""

    kind = "gauge"

    def register(self, registry: CollectorRegistry) -> Gauge:
        """A gauge that is set."""
        return Gauge(self.name, self.help, self.label_names, registry=registry)

    def follow(self, registry: CollectorRegistry, value: Callable[[], float]) -> None:
        """A gauge without labels that is asked at each scrape."""
        self.register(registry).set_function(value)

    def collected(self) -> GaugeMetricFamily:
        """One whose values are made for one scrape."""
        return GaugeMetricFamily(self.name, self.help, labels=self.label_names)

    def of(self, value: float) -> GaugeMetricFamily:
        """One without labels, for one scrape."""
        return GaugeMetricFamily(self.name, self.help, value=value)


@dataclass(frozen=True, slots=True)
class HistogramFamily(Family):
    """How often it took how long. `buckets`: upper bounds in the name's unit, less infinity."""

    buckets: tuple[float, ...] = ()

    kind = "histogram"

    @property
    def exposed(self) -> tuple[str, ...]:
        """The names of its series."""
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))

    def register(self, registry: CollectorRegistry) -> Histogram:
        """A histogram."""
        return Histogram(
            self.name, self.help, self.label_names, buckets=self.buckets, registry=registry
        )


@dataclass(frozen=True, slots=True)
class InfoFamily(Family):
    """What something is, as labels of a 1, to be joined with other families.

    `facts` are the labels that tell; `labels` those that it is joined by.
    """

    facts: tuple[Label, ...] = ()

    kind = "info"

    def collected(self) -> InfoMetricFamily:
        """One for one scrape; its values are of type dict, by the names of `facts`."""
        return InfoMetricFamily(self.name.removesuffix("_info"), self.help, labels=self.label_names)


def new_registry() -> CollectorRegistry:
    """A registry of a program's own, without `_created` series: there would be one for each, which
    nobody asks for."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    return CollectorRegistry()
