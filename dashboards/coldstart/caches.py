"""Rows about compile caches."""

from __future__ import annotations

from dashboards import shared
from dashboards.boards import Row, band, evenly
from dashboards.coldstart.asked import (
    CACHE,
    CACHE_KEY,
    CACHE_STATES,
    COMPILED,
    SAVED,
    SPARED,
    STARTS,
    before,
    per,
)
from dashboards.panels import graph, per_step, table
from dashboards.queries import CLUSTER, RATE, each, grown, of
from dashboards.style import BYTES, COUNT, ODD_IF_ANY, SECONDS, STATES, YES_NO, Column, Query


def hits() -> Row:
    """Whether starts find what was compiled."""
    counts = of("modelcache_compile_cache_nodes", *CLUSTER, 'compile_cache=~"$compile_cache"')
    counts = each("cluster, compile_cache, state", counts)
    held = each("cluster, node, compile_cache, state", of("modelcache_compile_cache_state", *CACHE))
    return Row(
        "Are compile caches hitting?",
        [
            evenly(
                8,
                shared.hit_ratio(*CACHE),
                shared.starts_by_result(*CACHE),
                shared.misses_by_reason(*CACHE),
            ),
            evenly(
                8,
                graph(
                    "Nodes, by how far they are",
                    "Nodes that are to hold a compile cache (desired), and how far they are with"
                    " it, as the controller counts. Missing: nothing was published for their"
                    " hardware and engine yet.",
                    Query(f"sum by (state) ({counts})", "{{state}}"),
                    unit=COUNT,
                    colors={
                        "desired": "text",
                        "ready": "green",
                        "missing": "orange",
                        "failed": "red",
                    },
                ),
                graph(
                    "Bundles on nodes, by state",
                    "The states that compile caches are in on the chosen nodes, as their agents"
                    " say.",
                    Query(f"sum by (state) ({held})", "{{state}}"),
                    unit=COUNT,
                    stacked=True,
                    colors={state: STATES[state] for state in CACHE_STATES},
                ),
            ),
        ],
    )


def spared() -> Row:
    """What that spared."""
    caches = "modelcache_compile_cache_"
    by = "compile_cache"
    return Row(
        "What was spared?",
        [
            band(
                8,
                (
                    14,
                    table(
                        "Compile caches",
                        "Starts in the time that is shown, and seconds of compiling of each in the"
                        " mean, without the cache and with it; the size of the bundle, and whether"
                        " a start has loaded it.",
                        (CACHE_KEY,),
                        [
                            Column(grown(STARTS, by), "Starts"),
                            Column(before(by), "Without", SECONDS),
                            Column(per(COMPILED, STARTS, by), "With", SECONDS),
                            Column(grown(SPARED, by), "Spared in all", SECONDS),
                            Column(each(by, of(f"{caches}bytes", *CACHE)), "Bundle", BYTES),
                            Column(each(by, of(f"{caches}verified", *CACHE)), "Loaded", YES_NO),
                            Column(
                                each(by, of(f"{caches}attempts", *CACHE)),
                                "Failed tries",
                                steps=ODD_IF_ANY,
                            ),
                        ],
                        order=("Spared in all", True),
                    ),
                ),
                (
                    10,
                    per_step(
                        "Spared, as it happens",
                        "Seconds that starts were spared in each step of the graph: fetching"
                        " weights, and compiling.",
                        Query(grown(SAVED, over=RATE), "fetching"),
                        Query(grown(SPARED, over=RATE), "compiling"),
                        unit=SECONDS,
                    ),
                ),
            )
        ],
    )
