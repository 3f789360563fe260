"""What a start of a pod waits for, what the cache spares it, and how it was before."""

from __future__ import annotations

from typing import Final

from dashboards import shared
from dashboards.boards import Mark, Row, band, dashboard, evenly, link_to_model, variable
from dashboards.panels import (
    BYTES,
    COUNT,
    ODD_IF_ANY,
    SECONDS,
    SHARE,
    STATES,
    YES_NO,
    Column,
    Key,
    Query,
    bars,
    graph,
    number,
    spread,
    table,
)
from dashboards.queries import (
    CLUSTER,
    COPY,
    MODEL,
    NODE,
    RATE,
    READY,
    copies,
    each,
    grown,
    mean,
    of,
    quantile,
    ratio,
)

_CACHE: Final = (*NODE, 'compile_cache=~"$compile_cache"')
_MODEL_KEY: Final = Key("model", "Model", link_to_model("cold-start"))
_CACHE_KEY: Final = Key("compile_cache", "Compile cache")

_STATES: Final = ("Pending", "Missing", "Downloading", "Ready", "Failed")

_USES: Final = of("modelcache_model_uses_total", *MODEL)
_SAVED: Final = of("modelcache_saved_seconds_total", *MODEL)
_STARTS: Final = of(shared.STARTS, *_CACHE)
_COMPILED: Final = of("modelcache_compile_seconds_total", *_CACHE)
_SPARED: Final = of("modelcache_compile_seconds_saved_total", *_CACHE)
_WAITED: Final = "modelcache_time_to_ready_seconds"


def cold_start() -> str:
    """The JSON."""
    nodes = of("modelcache_compile_cache_state", *NODE)
    return dashboard(
        "cold-start",
        "The phases of a cold start: weights, page cache, compiling. What each takes, what the"
        " cache spares, whether compile caches hit, and before and after.",
        [_answers(), _before_and_after(), _phases(), _weights(), _hits(), _spared()],
        since="now-7d",
        also=[variable("compile_cache", "Compile cache", f"label_values({nodes}, compile_cache)")],
        marks=[_bundles()],
    )


def _per(total: str, times: str, by: str = "", over: str = "$__range") -> str:
    return ratio(grown(total, by, over), grown(times, by, over))


def _before(by: str = "", over: str = "$__range") -> str:
    """Seconds of compiling of a start, had there been no compile cache."""
    both = f"({grown(_COMPILED, by, over)} + {grown(_SPARED, by, over)})"
    return ratio(both, grown(_STARTS, by, over))


def _bundles() -> Mark:
    arrived = f"changes({of('modelcache_compile_cache_bytes', *_CACHE)}[{RATE}])"
    return Mark(
        "A bundle came", f"sum by (compile_cache) ({arrived}) > 0", "A bundle of {{compile_cache}}"
    )


def _answers() -> Row:
    return Row(
        "At a glance",
        [
            evenly(
                4,
                number(
                    "Weights, without the cache",
                    "What the fetch of a model had taken, in the mean of the uses in the time that"
                    " is shown. A pod that finds it on the disk waits for none of that.",
                    _per(_SAVED, _USES),
                    unit=SECONDS,
                    none="no uses",
                ),
                number(
                    "Compiling, without the cache",
                    "What starts compiled and what they were spared, in the mean of the starts in"
                    " the time that is shown.",
                    _before(),
                    unit=SECONDS,
                    none="no starts",
                ),
                number(
                    "Compiling, with the cache",
                    "What starts compiled, in the mean of those in the time that is shown.",
                    _per(_COMPILED, _STARTS),
                    unit=SECONDS,
                    none="no starts",
                ),
                number(
                    "Starts that compiled nothing",
                    "Of the starts whose log could be read, in the time that is shown.",
                    ratio(
                        grown(of(shared.STARTS, *_CACHE, 'result="Hit"')),
                        grown(of(shared.STARTS, *_CACHE, 'result!="Unknown"')),
                    ),
                    unit=SHARE,
                    none="no starts",
                ),
                number(
                    "Time not waited",
                    "All that starts were spared in the time that is shown: fetching and"
                    " compiling.",
                    Query(grown(_SAVED), "fetching"),
                    Query(grown(_SPARED), "compiling"),
                    unit=SECONDS,
                    none="none",
                ),
                number(
                    "From wanted to ready",
                    "How long it took until a model was ready on a node that had to fetch it: half"
                    " of them at most, and all but one in ten.",
                    Query(quantile(0.5, _WAITED, *NODE), "half"),
                    Query(quantile(0.9, _WAITED, *NODE), "90 %"),
                    unit=SECONDS,
                    none="none became ready",
                ),
            )
        ],
    )


def _before_and_after() -> Row:
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
                        Query(_per(_SAVED, _USES), "Weights, without"),
                        Query(f"0 * {_per(_SAVED, _USES)}", "Weights, with"),
                        Query(_before(), "Compiling, without"),
                        Query(_per(_COMPILED, _STARTS), "Compiling, with"),
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
                        Query(_before("compile_cache", RATE), "{{compile_cache}}, without"),
                        Query(
                            _per(_COMPILED, _STARTS, "compile_cache", RATE),
                            "{{compile_cache}}, with",
                        ),
                        unit=SECONDS,
                        form="points",
                    ),
                ),
            )
        ],
    )


def _phases() -> Row:
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
                graph(
                    "3. Compiling",
                    "Seconds that engines compiled at their starts, in each step of the graph.",
                    Query(grown(_COMPILED, "compile_cache", RATE), "{{compile_cache}}"),
                    unit=SECONDS,
                    form="bars",
                    stacked=True,
                ),
            ),
            band(
                8,
                (
                    14,
                    spread(
                        "Time to ready",
                        "How many copies became ready in each step of the graph, and how long after"
                        " they were wanted.",
                        grown(of(f"{_WAITED}_bucket", *NODE), "le", RATE),
                        SECONDS,
                    ),
                ),
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


def _weights() -> Row:
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
                        (_MODEL_KEY,),
                        [
                            Column(grown(_USES, "model"), "Uses"),
                            Column(_per(_SAVED, _USES, "model"), "Spared each", SECONDS),
                            Column(grown(_SAVED, "model"), "Spared in all", SECONDS),
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
                (
                    10,
                    graph(
                        "Pods that were given the cache",
                        "What became of pods that the webhook saw, in each step of the graph:"
                        " injected, unchanged, or failed (created as they were).",
                        Query(
                            grown(
                                of("modelcache_webhook_reviews_total", *CLUSTER), "outcome", RATE
                            ),
                            "{{outcome}}",
                        ),
                        unit=COUNT,
                        form="bars",
                        stacked=True,
                    ),
                ),
            )
        ],
    )


def _hits() -> Row:
    counts = of("modelcache_compile_cache_nodes", *CLUSTER, 'compile_cache=~"$compile_cache"')
    counts = each("cluster, compile_cache, state", counts)
    held = each(
        "cluster, node, compile_cache, state", of("modelcache_compile_cache_state", *_CACHE)
    )
    return Row(
        "Are compile caches hitting?",
        [
            evenly(
                8,
                shared.hit_ratio(*_CACHE),
                shared.starts_by_result(*_CACHE),
                shared.misses_by_reason(*_CACHE),
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
                    colors={state: STATES[state] for state in _STATES},
                ),
            ),
        ],
    )


def _spared() -> Row:
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
                        (_CACHE_KEY,),
                        [
                            Column(grown(_STARTS, by), "Starts"),
                            Column(_before(by), "Without", SECONDS),
                            Column(_per(_COMPILED, _STARTS, by), "With", SECONDS),
                            Column(grown(_SPARED, by), "Spared in all", SECONDS),
                            Column(each(by, of(f"{caches}bytes", *_CACHE)), "Bundle", BYTES),
                            Column(each(by, of(f"{caches}verified", *_CACHE)), "Loaded", YES_NO),
                            Column(
                                each(by, of(f"{caches}attempts", *_CACHE)),
                                "Failed tries",
                                steps=ODD_IF_ANY,
                            ),
                        ],
                        order=("Spared in all", True),
                    ),
                ),
                (
                    10,
                    graph(
                        "Spared, as it happens",
                        "Seconds that starts were spared in each step of the graph: fetching"
                        " weights, and compiling.",
                        Query(grown(_SAVED, over=RATE), "fetching"),
                        Query(grown(_SPARED, over=RATE), "compiling"),
                        unit=SECONDS,
                        form="bars",
                        stacked=True,
                    ),
                ),
            )
        ],
    )
