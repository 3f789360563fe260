"""The cache's disk, and what is evicted from it."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import CounterFamily, GaugeFamily
from modelcache.metrics.contract.labels import DISK_STATE, RULE

CAPACITY_BYTES: Final = GaugeFamily(
    "modelcache_disk_capacity_bytes", "Size of the cache's file system."
)
FREE_BYTES: Final = GaugeFamily(
    "modelcache_disk_free_bytes", "Free on the cache's file system, for whoever writes there."
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
    "Bytes that are missing for all wanted models together that don't fit, whatever goes that may.",
)
INODES: Final = GaugeFamily(
    "modelcache_disk_inodes",
    "Inodes of the cache's file system; absent where it makes them as they are needed.",
)
INODES_FREE: Final = GaugeFamily(
    "modelcache_disk_inodes_free", "Inodes that are left and not promised to fetches under way."
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
REGRETTED: Final = CounterFamily(
    "modelcache_evictions_regretted_total",
    "Evictions of what was fetched again within a day, by the rule of the eviction.",
    (RULE,),
)
