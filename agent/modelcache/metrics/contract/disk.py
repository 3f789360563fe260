"""The cache's disk, and what is evicted from it."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import CounterFamily, GaugeFamily
from modelcache.metrics.contract.labels import DISK_STATE, RULE

CAPACITY_BYTES: Final = GaugeFamily(
    "modelcache_disk_capacity_bytes", "Size of the cache's file system."
)
AVAILABLE_BYTES: Final = GaugeFamily(
    "modelcache_disk_available_bytes", "Free for fetches, without what is kept free."
)
USED_BYTES: Final = GaugeFamily("modelcache_disk_used_bytes", "Content of the models in the cache.")
BUDGET_BYTES: Final = GaugeFamily(
    "modelcache_disk_budget_bytes", "What the cache may take in all, as things are."
)
TAKEN_BYTES: Final = GaugeFamily(
    "modelcache_disk_taken_bytes", "What the cache takes of the disk in all."
)
RESERVED_BYTES: Final = GaugeFamily(
    "modelcache_disk_reserved_bytes", "Promised to fetches under way."
)
SHORT_BYTES: Final = GaugeFamily(
    "modelcache_disk_short_bytes",
    "Bytes that are missing for wanted models that don't fit, whatever goes that may.",
)
STATE: Final = GaugeFamily(
    "modelcache_disk_state",
    "1 for the state that the cache's disk is in: ok, failing or down.",
    (DISK_STATE,),
)
EVICTIONS: Final = CounterFamily("modelcache_evictions_total", "What was evicted.", (RULE,))
EVICTED_BYTES: Final = CounterFamily(
    "modelcache_evicted_bytes_total", "Bytes that evictions freed.", (RULE,)
)
