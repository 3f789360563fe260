"""Rows about this node's models, and what is fetched."""

from __future__ import annotations

from typing import Final

from dashboards import shared
from dashboards.boards import Row, band, evenly, link_to_model
from dashboards.panels import bars, graph, states, table
from dashboards.queries import (
    COPY,
    FAILING,
    LEFT,
    MODEL,
    NODE,
    PROGRESS,
    STILL,
    WANTED,
    copies,
    each,
    mean,
    of,
)
from dashboards.style import AGO, BAD_IF_ANY, BYTES, SECONDS, SHARE, YES_NO, Column, Key, Query

MODEL_KEY: Final = Key("model", "Model", link_to_model("node"))


def models() -> Row:
    """What is here, and what fails."""
    state = each(f"{COPY}, state", of("modelcache_model_state", *MODEL))
    info = each(f"{COPY}, revision, origin", of("modelcache_model_info", *MODEL))

    def at(name: str) -> str:
        return f"1000 * {copies(f'modelcache_model_{name}_timestamp_seconds')}"

    return Row(
        "Which models are here, and why is one not ready?",
        [
            band(
                10,
                (
                    24,
                    table(
                        "Models",
                        "Every model that this node has anything to do with: its state and"
                        " revision, how far it is, how long still, and who uses it. Why one fails"
                        " is in the next panel; `modelcache explain NAME` says it in words.",
                        (
                            MODEL_KEY,
                            Key("state", "State"),
                            Key("origin", "Origin"),
                            Key("revision", "Revision"),
                        ),
                        [
                            Column(f"{state} == 1"),
                            Column(f"{info}"),
                            Column(WANTED, "Wanted", YES_NO),
                            Column(copies("modelcache_model_size_bytes"), "Size", BYTES),
                            Column(PROGRESS, "Progress", SHARE, cell="gauge"),
                            Column(LEFT, "Still to come", BYTES),
                            Column(STILL, "Time left", SECONDS),
                            Column(
                                copies("modelcache_model_failed_attempts"),
                                "Failed tries",
                                steps=BAD_IF_ANY,
                            ),
                            Column(copies("modelcache_model_users"), "In use by"),
                            Column(at("last_used"), "Last used", AGO),
                            Column(at("wanted"), "Wanted since", AGO),
                            Column(at("ready"), "Ready since", AGO),
                        ],
                        order=("Model", False),
                        known=("cluster", "node"),
                    ),
                ),
            ),
            band(
                9,
                (
                    16,
                    states(
                        "States over time",
                        "The state of each model.",
                        Query(
                            shared.numbered(
                                "modelcache_model_state", "model", shared.MODEL_STATES, *MODEL
                            ),
                            "{{model}}",
                        ),
                        shared.MODEL_STATES,
                    ),
                ),
                (
                    8,
                    table(
                        "Why models fail",
                        "Why the last try of a model failed, and for how long it has been missing:"
                        " without a time it is ready, and its update fails.",
                        (MODEL_KEY, Key("reason", "Reason")),
                        [
                            Column(f"{each(f'{COPY}, reason', _FAILING)} == 1"),
                            Column(
                                f"(time() - {copies('modelcache_model_missing_timestamp_seconds')})"
                                f" and on ({COPY}) ({FAILING})",
                                "Missing for",
                                SECONDS,
                            ),
                        ],
                        order=("Missing for", True),
                        known=("cluster", "node"),
                    ),
                ),
            ),
        ],
    )


_FAILING = of("modelcache_model_failing", *MODEL)


def transfers() -> Row:
    """What comes, and what holds it up."""
    return Row(
        "What is being fetched, and what holds it up?",
        [
            evenly(
                8,
                shared.received_by_origin(),
                graph(
                    "Progress",
                    "How far each model is that is on the way.",
                    Query(PROGRESS, "{{model}}"),
                    unit=SHARE,
                    most=1,
                ),
                shared.connections_by_activity(),
            ),
            evenly(
                8,
                shared.fetches_by_result(),
                shared.retries_by_reason(),
                shared.pauses_by_status(),
            ),
            evenly(
                8,
                shared.mirrors_and_waste(),
                bars(
                    "Time of fetches",
                    "How long a model's fetch took from its start to its commit, and of that the"
                    " time on digests; the mean of those in the time that is shown.",
                    Query(
                        mean("modelcache_fetch_seconds", *NODE, by="origin"),
                        "{{origin}}: fetch",
                    ),
                    Query(
                        mean("modelcache_verification_seconds", *NODE, by="origin"),
                        "{{origin}}: digests",
                    ),
                    unit=SECONDS,
                ),
                table(
                    "Last fetch that succeeded",
                    "When a model last became whole, by where it came from.",
                    (Key("origin", "Origin"),),
                    [
                        Column(
                            f"1000 * {each('origin', _LAST_SUCCESS)}",
                            "When",
                            AGO,
                        )
                    ],
                ),
            ),
        ],
    )


_LAST_SUCCESS = of("modelcache_fetch_last_success_timestamp_seconds", *NODE)
