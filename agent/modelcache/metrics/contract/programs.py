"""The programs themselves: how they are, and what they were told."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import (
    CounterFamily,
    GaugeFamily,
    HistogramFamily,
    InfoFamily,
    Program,
)
from modelcache.metrics.contract.labels import CODE, REQUESTED, TASK, VERB, VERSION

BUILD: Final = InfoFamily(
    "modelcache_build_info",
    "The version of the program.",
    programs=tuple(Program),
    facts=(VERSION,),
)
TASK_FAILURES: Final = CounterFamily(
    "modelcache_task_failures_total",
    "Rounds of a program's loop that failed; the loop goes on.",
    (TASK,),
    tuple(Program),
)
TASK_HUNG: Final = GaugeFamily(
    "modelcache_task_hung",
    "1 for a loop of a program that shows no sign of life; its `/livez` fails.",
    (TASK,),
    tuple(Program),
)
API_REQUESTS: Final = CounterFamily(
    "modelcache_api_requests_total",
    "Requests to the API server, by how it answered; code is empty where it didn't.",
    (REQUESTED, VERB, CODE),
    (Program.AGENT, Program.CONTROLLER, Program.WEBHOOK),
)
RECONCILE_SECONDS: Final = HistogramFamily(
    "modelcache_reconcile_seconds",
    "Time that a round of the reconciler took.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
)
RECONCILE_LAG: Final = GaugeFamily(
    "modelcache_reconcile_lag_seconds",
    "Time since the round of the reconciler that runs was due; where none runs, the next one.",
)
RECONCILE_LAST_SUCCESS: Final = GaugeFamily(
    "modelcache_reconcile_last_success_timestamp_seconds",
    "When a round of the reconciler last ended well, in Unix time; before the first, when the agent"
    " started.",
)
CATALOG_OBJECTS: Final = GaugeFamily(
    "modelcache_catalog_objects", "Objects of the catalog in force."
)
CATALOG_UNREADABLE: Final = GaugeFamily(
    "modelcache_catalog_unreadable", "1 where nothing of the catalog can be read."
)
CATALOG_PROBLEMS: Final = GaugeFamily(
    "modelcache_catalog_problems", "Things wrong with the catalog's documents."
)
