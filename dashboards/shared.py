"""Panels that more than one dashboard has."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models.dashboard import Panel

from dashboards.panels import graph, per_step, spread, table
from dashboards.queries import CLUSTER, MODEL, NODE, RATE, each, grown, of, quantile, rate, ratio
from dashboards.style import BYTES, COUNT, REQUESTS, SECONDS, SHARE, SPEED, Column, Key, Query

STARTS: Final = "modelcache_compile_starts_total"

MODEL_STATES: Final = (
    "Pending",
    "Resolving",
    "Downloading",
    "Verifying",
    "Ready",
    "Failed",
    "Evicted",
)
"""As they are numbered where a graph shows them."""


RESULTS: Final = {"Hit": "green", "Partial": "yellow", "Miss": "orange", "Unknown": "text"}
"""The results of starts, and their colours."""


def received_by_origin() -> Panel:
    """How fast bytes come."""
    return graph(
        "Bytes from origins",
        "How fast bytes come, by the kind of origin that they are asked of.",
        Query(rate(of("modelcache_received_bytes_total", *NODE), "origin"), "{{origin}}"),
        unit=SPEED,
        stacked=True,
    )


def connections_by_activity() -> Panel:
    """What bounds the fetches."""
    spent = of("modelcache_transfer_seconds_total", *NODE)
    return graph(
        "What connections wait for",
        "How many connections were busy with what: the origin, the disk, digests, or held back by a"
        " bandwidth limit. It is counted when a fetch ends, so that a long one shows late.",
        Query(rate(spent, "activity"), "{{activity}}"),
        unit=COUNT,
        stacked=True,
    )


def mirrors_and_waste() -> Panel:
    """What mirrors spared the origin, and what came in vain."""
    return graph(
        "From mirrors, and in vain",
        "Of what comes: bytes that mirrors served in place of the origin, and bytes that were"
        " thrown away because their digest was wrong.",
        Query(rate(of("modelcache_mirrored_bytes_total", *NODE)), "from mirrors"),
        Query(rate(of("modelcache_dropped_bytes_total", *NODE)), "thrown away"),
        unit=SPEED,
    )


def retries_by_reason() -> Panel:
    """What goes wrong on the way."""
    by = "origin, reason"
    return per_step(
        "Tried again, by reason",
        "Failures in transfers that were tried again, and failures of mirrors, in each step of the"
        " graph.",
        Query(_step("modelcache_transfer_retries_total", by), "{{origin}} {{reason}}"),
        Query(_step("modelcache_mirror_failures_total", by), "mirror of {{origin}} {{reason}}"),
    )


def pauses_by_status() -> Panel:
    """Who asks for less."""
    return per_step(
        "Origins that ask for less",
        "Times that a host answered 429 or 503 and was left alone for a while, in each step of the"
        " graph.",
        Query(_step("modelcache_origin_pauses_total", "origin, status"), "{{origin}} {{status}}"),
    )


def fetches_by_result() -> Panel:
    """How fetches ended."""
    ended = "modelcache_fetches_total"
    good, bad = of(ended, *NODE, 'reason=""'), of(ended, *NODE, 'reason!=""')
    return per_step(
        "Fetches that ended",
        "How fetches ended in each step of the graph: whole, or why not.",
        Query(grown(good, "origin", RATE), "{{origin}} whole"),
        Query(grown(bad, "origin, reason", RATE), "{{origin}} {{reason}}"),
    )


def evictions_by_rule() -> Panel:
    """What went."""
    return per_step(
        "Evictions, by rule",
        "What was evicted in each step of the graph, and by which rule: nothing wants it"
        " (Unwanted), there is a newer revision (OldRevision), or something more important needs"
        " the room, of a model (LowerPriority) or of what a fetch has so far (LowerPriorityFetch)."
        " What is no model goes first: what is left of fetches that nothing wants (Leftover), and"
        " damaged files that were kept aside (Quarantine).",
        Query(_step("modelcache_evictions_total", "rule"), "{{rule}}"),
    )


def evicted_bytes_by_rule() -> Panel:
    """What that freed."""
    return per_step(
        "Room that evictions made",
        "Bytes that evictions freed in each step of the graph, by the rule.",
        Query(_step("modelcache_evicted_bytes_total", "rule"), "{{rule}}"),
        unit=BYTES,
    )


def regretted_by_rule() -> Panel:
    """Whom it hurt."""
    return per_step(
        "Evicted, and fetched again",
        "What was fetched again within a day after it had been evicted, by the rule that had"
        " evicted it. Many of them: the disks are too small for what is wanted.",
        Query(_step("modelcache_evictions_regretted_total", "rule"), "{{rule}}"),
    )


def fetched_and_served() -> Panel:
    """What came, and what did not have to."""
    return graph(
        "Fetched, and not fetched again",
        "Bytes that came from origins and mirrors, and the size of each model each time that"
        " somebody began to use it from the disk.",
        Query(rate(of("modelcache_received_bytes_total", *NODE)), "fetched"),
        Query(rate(of("modelcache_served_bytes_total", *MODEL)), "served from the disk"),
        unit=SPEED,
    )


def starts_by_result(*matchers: str) -> Panel:
    """Whether compile caches help."""
    return per_step(
        "Starts of engines",
        "Starts in each step of the graph, by how the compile cache helped: Hit compiled nothing,"
        " Partial some, Miss all; Unknown: the engine's log didn't say.",
        Query(grown(of(STARTS, *(matchers or NODE)), "result", RATE), "{{result}}"),
        colors=RESULTS,
    )


def misses_by_reason(*matchers: str) -> Panel:
    """Why they didn't."""
    missed = of(STARTS, *(matchers or NODE), 'result=~"Miss|Partial"')
    return per_step(
        "Why starts compiled",
        "Starts that compiled in each step of the graph, by the likely reason.",
        Query(grown(missed, "compile_cache, reason", RATE), "{{compile_cache}} {{reason}}"),
    )


def hit_ratio(*matchers: str) -> Panel:
    """How often they do."""
    by = "compile_cache"
    hits = grown(of(STARTS, *matchers, 'result="Hit"'), by, RATE)
    known = grown(of(STARTS, *matchers, 'result!="Unknown"'), by, RATE)
    return graph(
        "Hits among the starts",
        "Of the starts in each step of the graph, the share that compiled nothing. Steps without a"
        " start are empty.",
        Query(ratio(hits, known), "{{compile_cache}}"),
        unit=SHARE,
        most=1,
        form="points",
    )


def reconcile_seconds() -> Panel:
    """How long an agent's rounds take."""
    rounds = "modelcache_reconcile_seconds"
    return graph(
        "Time of a round",
        "How long the agents' rounds take: looking at what is wanted and what is there, deciding,"
        " and reporting. Half of the rounds, and all but one in a hundred, take at most this.",
        Query(quantile(0.5, rounds, *NODE, over=RATE), "half"),
        Query(quantile(0.99, rounds, *NODE, over=RATE), "99%"),
        unit=SECONDS,
    )


def task_failures() -> Panel:
    """What of a program fails or hangs."""
    hung = of("modelcache_task_hung", *NODE)
    return per_step(
        "Tasks that fail or hang",
        "Failures of the programs' tasks in each step of the graph, and tasks that have hung for"
        " too long now.",
        Query(_step("modelcache_task_failures_total", "job, task"), "{{job}} {{task}} failed"),
        Query(f"sum by (job, task) ({hung})", "{{job}} {{task}} hangs"),
    )


def api_by_code() -> Panel:
    """What API servers answer."""
    asked = of("modelcache_api_requests_total", *NODE)
    return graph(
        "Answers of API servers",
        "Requests to Kubernetes' API servers by the code of the answer; without one where no answer"
        " came.",
        Query(rate(asked, "job, code"), "{{job}} {{code}}"),
        unit=REQUESTS,
        stacked=True,
    )


def read_ahead_set() -> Panel:
    """Who sets it."""
    return per_step(
        "Read-ahead that was set",
        "Values that were set in each step of the graph: because a rule wants them (rule), or"
        " because somebody else had changed them (reset).",
        Query(_step("modelcache_read_ahead_changes_total", "reason"), "{{reason}}"),
        stacked=False,
    )


def time_to_ready() -> Panel:
    """How long models take."""
    return spread(
        "Time to ready",
        "How many copies became ready in each step of the graph, and how long after they were"
        " wanted.",
        _step("modelcache_time_to_ready_seconds_bucket", "le"),
        SECONDS,
    )


def pods_seen() -> Panel:
    """What the webhook did."""
    reviews = of("modelcache_webhook_reviews_total", *CLUSTER)
    warnings = of("modelcache_webhook_warnings_total", *CLUSTER)
    return per_step(
        "Pods that the webhook saw",
        "What became of pods in each step of the graph: injected (given their models and compile"
        " caches), unchanged, or failed (created as they were); and the warnings that were given to"
        " who created one.",
        Query(grown(reviews, "outcome", RATE), "{{outcome}}"),
        Query(grown(warnings, over=RATE), "warnings"),
        stacked=False,
    )


def versions() -> Panel:
    """Which programs run."""
    build = of("modelcache_build_info", *NODE)
    return table(
        "Versions",
        "How many of each program run in which version.",
        (Key("job", "Program"), Key("version", "Version")),
        [Column(f"count by (job, version) ({build})", "Running")],
    )


def numbered(metric: str, label: str, words: tuple[str, ...], *matchers: str) -> str:
    """A state for each value of `label`, numbered as they stand in `words`."""
    states = (
        each(f"{label}, state", of(metric, *matchers, f'state="{word}"')) + f" * {index}"
        for index, word in enumerate(words)
    )
    return f"sum by ({label}) ({' or '.join(states)})"


def _step(metric: str, by: str) -> str:
    return grown(of(metric, *NODE), by, RATE)
