"""Rows about models: where they are, what comes, and what the cache saved."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from dashboards import shared
from dashboards.boards import Row, band, evenly
from dashboards.fleet.keys import CLUSTER_KEY, COPY_KEYS, MODEL_KEY, NODE_KEY
from dashboards.panels import graph, matrix, table
from dashboards.queries import (
    CLUSTER,
    COPY,
    LEFT,
    MODEL,
    NODE,
    PROGRESS,
    READY,
    STAGES,
    STILL,
    WAITED_FOR,
    WANTED,
    copies,
    counted,
    each,
    grown,
    mean,
    of,
    quantile,
)
from dashboards.queries import SPEED as GROWTH
from dashboards.style import (
    AGO,
    BAD_IF_ANY,
    BYTES,
    COUNT,
    GOOD_IF_ALL,
    SECONDS,
    SHARE,
    SPEED,
    STATES,
    Column,
    Key,
    Query,
)
from modelcache.planning.wording import Stage


def copies_by_node() -> Row:
    """Which nodes have which models."""
    in_states = each(f"{COPY}, state", of("modelcache_model_state", *MODEL))
    return Row(
        "Which nodes have which models?",
        [
            band(
                12,
                (
                    24,
                    matrix(
                        "Nodes and models",
                        "The state of each model on each node that has anything to do with it. With"
                        " many of both, choose some at the top.",
                        f"{in_states} == 1",
                        rows=NODE_KEY,
                        columns="model",
                        value="state",
                    ),
                ),
            ),
            band(
                9,
                (14, _coverage()),
                (
                    10,
                    graph(
                        "Copies by state",
                        "How many copies of models, wanted or not, are in each state.",
                        Query(f"sum by (state) ({in_states})", "{{state}}"),
                        unit=COUNT,
                        stacked=True,
                        colors={state: STATES[state] for state in shared.MODEL_STATES},
                    ),
                ),
            ),
        ],
    )


def _coverage() -> Panel:
    here = ("cluster", "model")
    by = ", ".join(here)
    selected = of("modelcache_model_nodes", *CLUSTER, 'model=~"$model"', 'state="desired"')

    def in_stage(stage: Stage) -> str:
        return f"sum by ({by}) (({STAGES[stage]}) * 0 + 1 or 0 * {WANTED})"

    return table(
        "Models",
        "How far the fleet is with each model. Selected is how many nodes its object selects, as"
        " the controller counts; the other numbers are what the agents of the chosen nodes say.",
        (CLUSTER_KEY, MODEL_KEY),
        [
            Column(f"sum by ({by}) ({WANTED})", "Wanted"),
            Column(f"sum by ({by}) ({READY} * on ({COPY}) {WANTED})", "Ready"),
            Column(
                f"sum by ({by}) ({READY} * on ({COPY}) {WANTED}) / (sum by ({by}) ({WANTED}) > 0)",
                "Share",
                SHARE,
                GOOD_IF_ALL,
                cell="gauge",
            ),
            Column(in_stage(Stage.FAILING), "Failing", steps=BAD_IF_ANY),
            Column(in_stage(Stage.UPDATE_FAILING), "Update failing", steps=BAD_IF_ANY),
            Column(each(by, selected), "Selected"),
            Column(each(by, copies("modelcache_model_size_bytes")), "Size", BYTES),
            Column(f"sum by ({by}) ({copies('modelcache_model_users')})", "In use by"),
            Column(
                f"1000 * {each(by, copies('modelcache_model_last_used_timestamp_seconds'))}",
                "Last used",
                AGO,
            ),
        ],
        order=("Share", False),
    )


def fetching() -> Row:
    """What comes, how fast, and how long still."""
    return Row(
        "What is being fetched, how fast, and how long still?",
        [
            band(
                9,
                (
                    14,
                    table(
                        "On the way",
                        "Copies that are on the way: how far they are, how fast they grow, and"
                        " how long still at this speed. One that stands still has no time.",
                        COPY_KEYS,
                        [
                            Column(PROGRESS, "Progress", SHARE, cell="gauge"),
                            Column(LEFT, "Still to come", BYTES),
                            Column(GROWTH, "Speed", SPEED),
                            Column(STILL, "Time left", SECONDS),
                        ],
                        order=("Time left", True),
                    ),
                ),
                (10, shared.received_by_origin()),
            ),
            evenly(
                8,
                shared.connections_by_activity(),
                shared.mirrors_and_waste(),
                graph(
                    "Failing, on the way, waiting",
                    "Of the wanted copies, how many fail, come and wait, in the words of"
                    " `modelcache status`. All others are ready.",
                    *(Query(counted(STAGES[each]), each.word) for each in STAGES),
                    unit=COUNT,
                    stacked=True,
                ),
            ),
        ],
    )


def not_ready() -> Row:
    """Why."""
    since = copies("modelcache_model_missing_timestamp_seconds")
    not_there = f"on ({COPY}) ({WAITED_FOR})"
    states = each(f"{COPY}, state", of("modelcache_model_state", *MODEL))
    failing = each(f"{COPY}, reason", of("modelcache_model_failing", *MODEL))
    return Row(
        "Why is it not ready?",
        [
            band(
                10,
                (
                    15,
                    table(
                        "Wanted, and not ready",
                        "Each wanted copy that is not ready: its state, why its last try failed,"
                        " how many tries in a row did, and for how long it has been missing. On the"
                        " node `modelcache explain NAME` says it in words.",
                        (
                            *COPY_KEYS,
                            Key("state", "State"),
                            Key("reason", "Reason"),
                        ),
                        [
                            Column(f"({states} == 1) and {not_there}"),
                            Column(f"({failing} == 1) and {not_there}"),
                            Column(
                                f"{copies('modelcache_model_failed_attempts')} and {not_there}",
                                "Failed tries",
                                steps=BAD_IF_ANY,
                            ),
                            Column(
                                f"(time() - {since}) and {not_there}",
                                "Missing for",
                                SECONDS,
                                ((None, "text"), (3600, "yellow"), (4 * 3600, "red")),
                            ),
                        ],
                        order=("Missing for", True),
                    ),
                ),
                (
                    9,
                    graph(
                        "Failing copies, by reason",
                        "Copies whose last try failed, by why; also ready ones whose update fails.",
                        Query(f"sum by (reason) ({failing})", "{{reason}}"),
                        unit=COUNT,
                        stacked=True,
                    ),
                ),
            ),
            evenly(
                8,
                shared.fetches_by_result(),
                shared.retries_by_reason(),
                shared.pauses_by_status(),
            ),
        ],
    )


def time_to_ready() -> Row:
    """How long it takes."""
    waited = "modelcache_time_to_ready_seconds"
    return Row(
        "How long until a model is ready?",
        [
            band(
                9,
                (
                    10,
                    table(
                        "From wanted to ready",
                        "How long it took from when a copy was wanted until it was ready, and of"
                        " that its fetch and the time on digests, in the time that is shown. Half"
                        " of the copies, and all but one in ten, took at most this.",
                        (Key("origin", "Origin"),),
                        [
                            Column(grown(of(f"{waited}_count", *NODE), "origin"), "Copies"),
                            Column(quantile(0.5, waited, *NODE, by="origin"), "Half", SECONDS),
                            Column(quantile(0.9, waited, *NODE, by="origin"), "90%", SECONDS),
                            Column(
                                mean("modelcache_fetch_seconds", *NODE, by="origin"),
                                "Fetch (mean)",
                                SECONDS,
                            ),
                            Column(
                                mean("modelcache_verification_seconds", *NODE, by="origin"),
                                "Digests (mean)",
                                SECONDS,
                            ),
                        ],
                        order=("90%", True),
                    ),
                ),
                (14, shared.time_to_ready()),
            )
        ],
    )


def saved() -> Row:
    """What nobody had to fetch."""

    def all_of(metric: str) -> str:
        return grown(of(metric, *MODEL), "model")

    return Row(
        "What did the cache save?",
        [
            band(
                8,
                (
                    12,
                    table(
                        "Saved, by model",
                        "How often somebody began to use a model that was ready, the bytes that"
                        " were not fetched for that, and the time that its fetch had taken, each"
                        " time; in the time that is shown.",
                        (MODEL_KEY,),
                        [
                            Column(all_of("modelcache_model_uses_total"), "Uses"),
                            Column(all_of("modelcache_served_bytes_total"), "Bytes", BYTES),
                            Column(all_of("modelcache_saved_seconds_total"), "Time", SECONDS),
                        ],
                        order=("Bytes", True),
                    ),
                ),
                (12, shared.fetched_and_served()),
            )
        ],
    )
