"""The webhook's metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import Metric

from modelcache.metrics.collecting import AtScrape, ClusterProgramMetrics
from modelcache.metrics.contract import webhook


@dataclass(frozen=True, slots=True)
class WebhookState:
    """What is true of the webhook at one moment.

    Attributes:
        certificate_ends: when the certificate that is shown ends, in Unix time; None: there is
            none.
        objects: how many there are, by resource, as they were last seen.
        failing: the resources that can't be watched now.
    """

    certificate_ends: float | None
    objects: Mapping[str, int]
    failing: Collection[str]


class WebhookMetrics(ClusterProgramMetrics):
    """The webhook's registry. Safe for threads."""

    def __init__(self, state: Callable[[], WebhookState]) -> None:
        """`state` gives what is scraped, at each scrape."""
        super().__init__()
        self._state = state
        self.registry.register(AtScrape(self._collect))
        self._reviews = webhook.REVIEWS.register(self.registry)
        webhook.REVIEWS.begin(self._reviews)
        self._warnings = webhook.WARNINGS.register(self.registry)
        self._seconds = webhook.REVIEW_SECONDS.register(self.registry)

    def reviewed(self, outcome: str, warnings: int, seconds: float) -> None:
        """Count an answer."""
        self._reviews.labels(outcome).inc()
        self._warnings.inc(warnings)
        self._seconds.observe(seconds)

    def _collect(self) -> Iterable[Metric]:
        state = self._state()
        if state.certificate_ends is not None:
            yield webhook.CERTIFICATE_EXPIRY.of(state.certificate_ends)
        objects, failing = webhook.OBJECTS.collected(), webhook.WATCH_FAILING.collected()
        for resource, number in state.objects.items():
            objects.add_metric([resource], number)
            failing.add_metric([resource], float(resource in state.failing))
        yield from (objects, failing)
