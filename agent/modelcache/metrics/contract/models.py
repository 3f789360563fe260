"""What is known of each model."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import CounterFamily, GaugeFamily, InfoFamily
from modelcache.metrics.contract.labels import MODEL, MODEL_STATE, ORIGIN, REASON, REVISION

STATE: Final = GaugeFamily(
    "modelcache_model_state", "1 for the state that a model is in.", (MODEL, MODEL_STATE)
)
WANTED: Final = GaugeFamily(
    "modelcache_model_wanted", "1 for a model that the catalog asks for.", (MODEL,)
)
WANTED_TIMESTAMP: Final = GaugeFamily(
    "modelcache_model_wanted_timestamp_seconds",
    "Since when the catalog asks for a model's source, in Unix time.",
    (MODEL,),
)
MISSING_TIMESTAMP: Final = GaugeFamily(
    "modelcache_model_missing_timestamp_seconds",
    "Since when a model is wanted and not ready, in Unix time; absent while it is ready.",
    (MODEL,),
)
INFO: Final = InfoFamily(
    "modelcache_model_info",
    "A model's revision and origin.",
    (MODEL,),
    facts=(REVISION, ORIGIN),
)
DONE_BYTES: Final = GaugeFamily(
    "modelcache_model_done_bytes", "Bytes of a model on the disk.", (MODEL,)
)
SIZE_BYTES: Final = GaugeFamily("modelcache_model_size_bytes", "Bytes of a model in all.", (MODEL,))
RESIDENT_BYTES: Final = GaugeFamily(
    "modelcache_model_resident_bytes",
    "Bytes of a model's present revision that are in the page cache, in steps of 1 %.",
    (MODEL,),
)
RESIDENT_RATIO: Final = GaugeFamily(
    "modelcache_model_resident_ratio",
    "Part of a ready model that is in the page cache, from 0 to 1.",
    (MODEL,),
)
FAILING: Final = GaugeFamily(
    "modelcache_model_failing", "1 for why a model's last try failed.", (MODEL, REASON)
)
FAILED_ATTEMPTS: Final = GaugeFamily(
    "modelcache_model_failed_attempts", "Tries in a row that failed.", (MODEL,)
)
READY_TIMESTAMP: Final = GaugeFamily(
    "modelcache_model_ready_timestamp_seconds",
    "When a model's present revision became ready, in Unix time.",
    (MODEL,),
)
USERS: Final = GaugeFamily(
    "modelcache_model_users",
    "Who uses a ready model now: pods and leases; outside of a cluster processes, too.",
    (MODEL,),
)
LAST_USED_TIMESTAMP: Final = GaugeFamily(
    "modelcache_model_last_used_timestamp_seconds",
    "When a ready model was last seen in use, in Unix time; the present while it is in use. Absent"
    " where it never was.",
    (MODEL,),
)
USES: Final = CounterFamily(
    "modelcache_model_uses_total",
    "Times that somebody began to use a model that was ready: pods and leases; outside of a cluster"
    " processes, too. Leases and processes are looked for once a minute.",
    (MODEL,),
)
SERVED_BYTES: Final = CounterFamily(
    "modelcache_served_bytes_total",
    "Size of a model, for each use of it: bytes that nobody had to fetch.",
    (MODEL,),
)
SAVED_SECONDS: Final = CounterFamily(
    "modelcache_saved_seconds_total",
    "What a model's fetch had taken, for each use of it, where that is known.",
    (MODEL,),
)
