"""What a start of a pod waits for, what the cache spares it, and how it was before."""

from __future__ import annotations

from dashboards.boards import Mark, dashboard, variable
from dashboards.coldstart import caches, starts
from dashboards.coldstart.asked import CACHE
from dashboards.queries import NODE, RATE, of


def cold_start() -> str:
    """The JSON."""
    nodes = of("modelcache_compile_cache_state", *NODE)
    return dashboard(
        "cold-start",
        "The phases of a cold start: weights, page cache, compiling. What each takes, what the"
        " cache spares, whether compile caches hit, and before and after.",
        [
            starts.answers(),
            starts.before_and_after(),
            starts.phases(),
            starts.weights(),
            caches.hits(),
            caches.spared(),
        ],
        since="now-7d",
        also=[variable("compile_cache", "Compile cache", f"label_values({nodes}, compile_cache)")],
        marks=[_bundles()],
    )


def _bundles() -> Mark:
    arrived = f"changes({of('modelcache_compile_cache_bytes', *CACHE)}[{RATE}])"
    return Mark(
        "A bundle came", f"sum by (compile_cache) ({arrived}) > 0", "A bundle of {{compile_cache}}"
    )
