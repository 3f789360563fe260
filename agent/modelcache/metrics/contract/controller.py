"""The controller: what it sees of the nodes, and what it writes."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import CounterFamily, GaugeFamily, Program
from modelcache.metrics.contract.labels import (
    COMPILE_CACHE,
    COMPILE_NODES,
    MODEL,
    NODES,
    RESOURCE,
    TAINT_CAUSE,
    WRITTEN,
)

_BY: Final = (Program.CONTROLLER,)

LEADING: Final = GaugeFamily(
    "modelcache_controller_leading", "1 for the replica that writes.", (), _BY
)
OBJECTS: Final = GaugeFamily(
    "modelcache_controller_objects", "Objects that are watched.", (RESOURCE,), _BY
)
WATCH_FAILING: Final = GaugeFamily(
    "modelcache_controller_watch_failing",
    "1 for a resource that can't be listed or watched now.",
    (RESOURCE,),
    _BY,
)
MODEL_NODES: Final = GaugeFamily(
    "modelcache_model_nodes",
    "Nodes that are to hold a model (desired), and how far they are with it.",
    (MODEL, NODES),
    _BY,
)
COMPILE_CACHE_NODES: Final = GaugeFamily(
    "modelcache_compile_cache_nodes",
    "Nodes that are to hold a compile cache (desired), and how far they are with it.",
    (COMPILE_CACHE, COMPILE_NODES),
    _BY,
)
WRITES: Final = CounterFamily(
    "modelcache_controller_writes_total",
    "Writes to the API server by their result: ok, conflict (tried again) or error.",
    (RESOURCE, WRITTEN),
    _BY,
)
TAINTS_REMOVED: Final = CounterFamily(
    "modelcache_controller_startup_taints_removed_total",
    "Startup taints that were taken off nodes, because the models were ready or because the"
    " deadline had passed.",
    (TAINT_CAUSE,),
    _BY,
)
