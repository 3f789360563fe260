"""Compile caches on a node."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import CounterFamily, GaugeFamily
from modelcache.metrics.contract.labels import (
    COMPILE_CACHE,
    COMPILE_STATE,
    MISS,
    REFUSAL,
    START,
)

STATE: Final = GaugeFamily(
    "modelcache_compile_cache_state",
    "1 for the state that a compile cache is in on this node.",
    (COMPILE_CACHE, COMPILE_STATE),
)
BYTES: Final = GaugeFamily(
    "modelcache_compile_cache_bytes",
    "Size of the bundle that starts are seeded from.",
    (COMPILE_CACHE,),
)
VERIFIED: Final = GaugeFamily(
    "modelcache_compile_cache_verified",
    "1 where a start on this node has loaded that bundle.",
    (COMPILE_CACHE,),
)
ATTEMPTS: Final = GaugeFamily(
    "modelcache_compile_cache_attempts", "Failed tries in a row.", (COMPILE_CACHE,)
)
STARTS: Final = CounterFamily(
    "modelcache_compile_starts_total",
    "Starts of engines on this node, by how the compile cache helped, and for those that were no"
    " hit the likely reason.",
    (COMPILE_CACHE, START, MISS),
)
SECONDS: Final = CounterFamily(
    "modelcache_compile_seconds_total",
    "Seconds that engines on this node compiled at their starts, as far as they said it.",
    (COMPILE_CACHE,),
)
SECONDS_SAVED: Final = CounterFamily(
    "modelcache_compile_seconds_saved_total",
    "Seconds of compiling that starts were spared: what the start compiled that the bundle was"
    " captured from, less what this one did.",
    (COMPILE_CACHE,),
)
RECEIVED_BYTES: Final = CounterFamily(
    "modelcache_compile_received_bytes_total",
    "Bytes of bundles that pods of this node brought.",
    (COMPILE_CACHE,),
)
REFUSED: Final = CounterFamily(
    "modelcache_compile_refused_total", "Requests of pods that were refused.", (REFUSAL,)
)
