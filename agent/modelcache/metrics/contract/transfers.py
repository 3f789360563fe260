"""What is fetched, and how that goes."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import CounterFamily, GaugeFamily, HistogramFamily
from modelcache.metrics.contract.labels import ACTIVITY, ENDED, ORIGIN, REASON, STATUS

# From a small file on a fast network to hundreds of gigabytes on a slow one.
HOURS: Final = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800)

RECEIVED_BYTES: Final = CounterFamily(
    "modelcache_received_bytes_total", "Bytes that came from origins.", (ORIGIN,)
)
MIRRORED_BYTES: Final = CounterFamily(
    "modelcache_mirrored_bytes_total",
    "Those of the received bytes that mirrors served in place of the origin.",
    (ORIGIN,),
)
DROPPED_BYTES: Final = CounterFamily(
    "modelcache_dropped_bytes_total",
    "Bytes that came and were thrown away, because their digest was wrong.",
)
FETCHES: Final = CounterFamily(
    "modelcache_fetches_total",
    "Fetches of models that ended; reason is empty for those that succeeded.",
    (ORIGIN, ENDED),
)
FETCH_SECONDS: Final = HistogramFamily(
    "modelcache_fetch_seconds",
    "Time that a model's fetch took, from its start to its commit.",
    (ORIGIN,),
    buckets=HOURS,
)
SPENT_SECONDS: Final = CounterFamily(
    "modelcache_transfer_seconds_total",
    "Time of all connections: waiting for the origin, on the disk, on digests, held back by a"
    " bandwidth limit. Counted when a fetch ends; what grows fastest bounds the fetches.",
    (ORIGIN, ACTIVITY),
)
VERIFICATION_SECONDS: Final = HistogramFamily(
    "modelcache_verification_seconds",
    "Time that a model's fetch spent on digests, of all connections, while the bytes passed.",
    (ORIGIN,),
    buckets=(0.1, 0.5, *HOURS),
)
TIME_TO_READY: Final = HistogramFamily(
    "modelcache_time_to_ready_seconds",
    "Time from when a model was wanted, or missed again, until it was ready. What was there already"
    " is not counted.",
    (ORIGIN,),
    buckets=(*HOURS, 57600, 86400),
)
RETRIES: Final = CounterFamily(
    "modelcache_transfer_retries_total",
    "Failures in a transfer that were tried again.",
    (ORIGIN, REASON),
)
MIRROR_FAILURES: Final = CounterFamily(
    "modelcache_mirror_failures_total",
    "Failures of mirrors, after which the origin was asked.",
    (ORIGIN, REASON),
)
PAUSES: Final = CounterFamily(
    "modelcache_origin_pauses_total",
    "Times that a host asked for fewer requests (429, 503) and was left alone for a while.",
    (ORIGIN, STATUS),
)
LAST_SUCCESS_TIMESTAMP: Final = GaugeFamily(
    "modelcache_fetch_last_success_timestamp_seconds",
    "When a fetch from such an origin last ended well, in Unix time.",
    (ORIGIN,),
)
