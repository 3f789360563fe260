"""Rows about its compile caches, and its agent."""

from __future__ import annotations

from dashboards import shared
from dashboards.boards import Row, band, evenly
from dashboards.panels import graph, per_step, table
from dashboards.queries import BEHIND, NODE, RATE, each, grown, of, places, rate
from dashboards.style import BAD_IF_ANY, BYTES, COUNT, REQUESTS, SECONDS, YES_NO, Column, Key, Query


def compile_caches() -> Row:
    """Whether they hit."""
    caches = "modelcache_compile_cache_"
    received = of("modelcache_compile_received_bytes_total", *NODE)
    refused = of("modelcache_compile_refused_total", *NODE)
    state = each("compile_cache, state", of(f"{caches}state", *NODE))
    return Row(
        "Are compile caches hitting here?",
        [
            evenly(
                8,
                table(
                    "Compile caches",
                    "The bundle that starts are seeded from: its state and size, whether a start"
                    " has loaded it, and failed tries in a row.",
                    (Key("compile_cache", "Compile cache"), Key("state", "State")),
                    [
                        Column(f"{state} == 1"),
                        Column(
                            each("compile_cache", of(f"{caches}bytes", *NODE)),
                            "Size",
                            BYTES,
                        ),
                        Column(
                            each("compile_cache", of(f"{caches}verified", *NODE)),
                            "Was loaded",
                            YES_NO,
                        ),
                        Column(
                            each("compile_cache", of(f"{caches}attempts", *NODE)),
                            "Failed tries",
                            steps=BAD_IF_ANY,
                        ),
                    ],
                ),
                shared.starts_by_result(),
                shared.misses_by_reason(),
                per_step(
                    "What pods bring",
                    "Bytes of bundles that pods of this node brought, in each step of the graph.",
                    Query(grown(received, "compile_cache", RATE), "{{compile_cache}}"),
                    stacked=False,
                    unit=BYTES,
                ),
            ),
            band(
                6,
                (
                    24,
                    per_step(
                        "Pods that were refused",
                        "Requests of pods about compile caches that were refused in each step of"
                        " the graph, by why.",
                        Query(grown(refused, "reason", RATE), "{{reason}}"),
                        stacked=False,
                    ),
                ),
            ),
        ],
    )


def agent() -> Row:
    """Whether it is well."""
    asked = of("modelcache_api_requests_total", *NODE)
    return Row(
        "Is the agent well?",
        [
            evenly(
                8,
                graph(
                    "How late the agent is",
                    "By how much the agent's present round is late, and how long ago its last whole"
                    " one was.",
                    Query(places("modelcache_reconcile_lag_seconds"), "late by"),
                    Query(BEHIND, "last whole round"),
                    unit=SECONDS,
                ),
                shared.reconcile_seconds(),
                shared.task_failures(),
            ),
            evenly(
                8,
                graph(
                    "Requests to the API server",
                    "Requests of this node's programs, by what they ask for and the code of the"
                    " answer; without one where no answer came.",
                    Query(rate(asked, "resource, verb, code"), "{{verb}} {{resource}} {{code}}"),
                    unit=REQUESTS,
                    stacked=True,
                ),
                graph(
                    "Catalog",
                    "Objects of the catalog in force, things wrong with its documents, and whether"
                    " it can't be read.",
                    Query(places("modelcache_catalog_objects"), "objects"),
                    Query(places("modelcache_catalog_problems"), "problems"),
                    Query(places("modelcache_catalog_unreadable"), "can't be read"),
                    unit=COUNT,
                ),
                shared.versions(),
            ),
        ],
    )
