"""Rows about starts: what they wait for, with the cache and without it."""

from __future__ import annotations

from dashboards import glance, shared
from dashboards.boards import Row, band, evenly
from dashboards.coldstart.asked import (
    CACHE,
    COMPILED,
    MODEL_KEY,
    SAVED,
    STARTS,
    USES,
    WAITED,
    before,
    per,
)
from dashboards.panels import bars, graph, number, per_step, table
from dashboards.queries import (
    COPY,
    MODEL,
    NODE,
    RATE,
    READY,
    copies,
    grown,
    mean,
    of,
    quantile,
)
from dashboards.style import BYTES, SECONDS, SHARE, Column, Query


def answers() -> Row:
    """At a glance."""
    return Row(
        "At a glance",
        [
            evenly(
                4,
                number(
                    "Weights, without the cache",
                    "What the fetch of a model had taken, in the mean of the uses in the time that"
                    " is shown. A pod that finds it on the disk waits for none of that.",
                    per(SAVED, USES),
                    unit=SECONDS,
                    none="no uses",
                ),
                number(
                    "Compiling, without the cache",
                    "How long a start would have compiled: what starts compiled and what they were"
                    " spared, in the mean of those in the time that is shown.",
                    before(),
                    unit=SECONDS,
                    none="no starts",
                ),
                number(
                    "Compiling, with the cache",
                    "How long a start compiled, in the mean of those in the time that is shown.",
                    per(COMPILED, STARTS),
                    unit=SECONDS,
                    none="no starts",
                ),
                glance.starts_that_hit("Starts that compiled nothing", *CACHE),
                glance.time_not_waited(*CACHE),
                number(
                    "From wanted to ready",
                    "How long it took until a model was ready on a node that had to fetch it: half"
                    " of them at most, and all but one in ten.",
                    Query(quantile(0.5, WAITED, *NODE), "half"),
                    Query(quantile(0.9, WAITED, *NODE), "90%"),
                    unit=SECONDS,
                    none="none became ready",
                ),
            )
        ],
    )


def before_and_after() -> Row:
    """With the cache, and without it."""
    return Row(
        "Before and after",
        [
            band(
                9,
                (
                    8,
                    bars(
                        "A start, phase by phase",
                        "Seconds that a start waited for each phase, in the mean of those in the"
                        " time that is shown: had there been no cache, and with it. Weights that"
                        " are on the disk take no fetch; how fast they load is"
                        " `modelcache bench load`.",
                        Query(per(SAVED, USES), "Weights, without"),
                        Query(f"0 * {per(SAVED, USES)}", "Weights, with"),
                        Query(before(), "Compiling, without"),
                        Query(per(COMPILED, STARTS), "Compiling, with"),
                        unit=SECONDS,
                    ),
                ),
                (
                    16,
                    graph(
                        "Compiling at a start",
                        "Seconds that a start compiled, in the mean of each step of the graph, and"
                        " what it would have been without the cache. Where a bundle came is marked:"
                        " from then on the two part.",
                        Query(before("compile_cache", RATE), "{{compile_cache}}, without"),
                        Query(
                            per(COMPILED, STARTS, "compile_cache", RATE),
                            "{{compile_cache}}, with",
                        ),
                        unit=SECONDS,
                        form="points",
                    ),
                ),
            )
        ],
    )


def phases() -> Row:
    """What a start waits for."""
    resident = copies("modelcache_model_resident_bytes")
    sizes = f"{copies('modelcache_model_size_bytes')} and on ({COPY}) {READY} == 1"
    spent = of("modelcache_transfer_seconds_total", *NODE)
    return Row(
        "The phases",
        [
            evenly(
                8,
                graph(
                    "1. Weights onto the disk",
                    "How long a model's fetch took from its start to its commit, by where it came"
                    " from; the mean of each step of the graph.",
                    Query(
                        mean("modelcache_fetch_seconds", *NODE, by="origin", over=RATE),
                        "{{origin}}: fetch",
                    ),
                    Query(
                        mean("modelcache_verification_seconds", *NODE, by="origin", over=RATE),
                        "{{origin}}: of that, digests",
                    ),
                    unit=SECONDS,
                    form="points",
                ),
                graph(
                    "2. Weights into memory",
                    "Of the bytes of models that are ready, the share that is in the page cache:"
                    " a start reads these from memory, and the others from the disk.",
                    Query(
                        f"sum by (model) ({resident}) / (sum by (model) ({sizes}) > 0)",
                        "{{model}}",
                    ),
                    unit=SHARE,
                    most=1,
                ),
                per_step(
                    "3. Compiling",
                    "Seconds that engines compiled at their starts, in each step of the graph.",
                    Query(grown(COMPILED, "compile_cache", RATE), "{{compile_cache}}"),
                    unit=SECONDS,
                ),
            ),
            band(
                8,
                (14, shared.time_to_ready()),
                (
                    10,
                    bars(
                        "Where the time of fetches went",
                        "What connections did, all of them together, in the time that is shown.",
                        Query(grown(spent, "activity"), "{{activity}}"),
                        unit=SECONDS,
                    ),
                ),
            ),
        ],
    )


def weights() -> Row:
    """Whether starts find them."""
    users = copies("modelcache_model_users")
    return Row(
        "Do starts find their weights?",
        [
            band(
                8,
                (
                    14,
                    table(
                        "Uses, by model",
                        "How often somebody began to use a model that was ready, what its fetch had"
                        " taken, and what all of them were spared; in the time that is shown.",
                        (MODEL_KEY,),
                        [
                            Column(grown(USES, "model"), "Uses"),
                            Column(per(SAVED, USES, "model"), "Spared each", SECONDS),
                            Column(grown(SAVED, "model"), "Spared in all", SECONDS),
                            Column(
                                grown(of("modelcache_served_bytes_total", *MODEL), "model"),
                                "Bytes",
                                BYTES,
                            ),
                            Column(f"sum by (model) ({users})", "In use by"),
                        ],
                        order=("Spared in all", True),
                    ),
                ),
                (10, shared.pods_seen()),
            )
        ],
    )
