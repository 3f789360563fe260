"""What is read back of the cache, and what comes of it."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import CounterFamily, GaugeFamily

BYTES: Final = CounterFamily(
    "modelcache_scrubbed_bytes_total",
    "Bytes of the cache that were read back and compared with their digests.",
)
DAMAGED: Final = CounterFamily(
    "modelcache_scrub_damaged_files_total",
    "Files that scrubbing found damaged; they were withdrawn.",
)
HEALED: Final = CounterFamily(
    "modelcache_healed_files_total", "Damaged files that are whole again."
)
OLDEST_TIMESTAMP: Final = GaugeFamily(
    "modelcache_scrub_oldest_timestamp_seconds",
    "When the file that waits for the longest was last known to be whole, in Unix time. Absent"
    " before the first look, and where scrubbing is switched off.",
)
QUARANTINED_FILES: Final = GaugeFamily(
    "modelcache_quarantined_files", "Damaged files that are kept aside."
)
QUARANTINED_BYTES: Final = GaugeFamily(
    "modelcache_quarantined_bytes", "Bytes of disk that the damaged files have."
)
