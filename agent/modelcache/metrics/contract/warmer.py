"""Models that are kept in memory."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import CounterFamily, GaugeFamily, Program
from modelcache.metrics.contract.labels import DROP, MODEL

_BY: Final = (Program.WARMER,)

BUDGET_BYTES: Final = GaugeFamily(
    "modelcache_warmer_budget_bytes", "Bytes of models that may be kept in memory.", (), _BY
)
SIZE_BYTES: Final = GaugeFamily(
    "modelcache_warmer_model_size_bytes",
    "Bytes of a model that is to be in memory.",
    (MODEL,),
    _BY,
)
RESIDENT_BYTES: Final = GaugeFamily(
    "modelcache_warmer_model_resident_bytes",
    "Bytes of a model that is to be in memory that are in the page cache.",
    (MODEL,),
    _BY,
)
MISSING_BYTES: Final = GaugeFamily(
    "modelcache_warmer_model_missing_bytes",
    "Bytes by which the budget is too small for a model that is to be in memory; 0 where it fits.",
    (MODEL,),
    _BY,
)
READ_BYTES: Final = CounterFamily(
    "modelcache_warmer_read_bytes_total", "Bytes that were brought into the page cache.", (), _BY
)
DROPPED_BYTES: Final = CounterFamily(
    "modelcache_warmer_dropped_bytes_total",
    "Bytes that were dropped from the page cache.",
    (DROP,),
    _BY,
)
FAILURES: Final = CounterFamily(
    "modelcache_warmer_failures_total",
    "Files that could not be read, looked at or dropped.",
    (),
    _BY,
)
