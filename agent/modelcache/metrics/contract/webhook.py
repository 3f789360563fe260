"""The webhook."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import (
    CounterFamily,
    GaugeFamily,
    HistogramFamily,
    Program,
)
from modelcache.metrics.contract.labels import OUTCOME, RESOURCE

_BY: Final = (Program.WEBHOOK,)

REVIEWS: Final = CounterFamily(
    "modelcache_webhook_reviews_total", "Pods by what became of them.", (OUTCOME,), _BY
)
WARNINGS: Final = CounterFamily(
    "modelcache_webhook_warnings_total", "Warnings that were given to who created a pod.", (), _BY
)
REVIEW_SECONDS: Final = HistogramFamily(
    "modelcache_webhook_review_seconds",
    "Time that an answer took. The API server waits for two seconds.",
    (),
    _BY,
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2),
)
CERTIFICATE_EXPIRY: Final = GaugeFamily(
    "modelcache_webhook_certificate_expiry_timestamp_seconds",
    "When the certificate that is shown ends, in Unix time.",
    (),
    _BY,
)
OBJECTS: Final = GaugeFamily(
    "modelcache_webhook_objects", "Objects that are watched.", (RESOURCE,), _BY
)
WATCH_FAILING: Final = GaugeFamily(
    "modelcache_webhook_watch_failing",
    "1 for a resource that can't be listed or watched now.",
    (RESOURCE,),
    _BY,
)
