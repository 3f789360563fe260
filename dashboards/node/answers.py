"""The first row."""

from __future__ import annotations

from dashboards import glance
from dashboards.boards import Row, evenly
from dashboards.panels import number
from dashboards.queries import BEHIND, COPY, NODE, READY, copies, grown, of, places, ratio
from dashboards.style import BAD_IF_ANY, SECONDS, SHARE, Query
from modelcache.planning.wording import Stage


def answers() -> Row:
    """At a glance."""
    taken, budget = places("modelcache_disk_taken_bytes"), places("modelcache_disk_budget_bytes")
    sizes = copies("modelcache_model_size_bytes")
    return Row(
        "At a glance",
        [
            evenly(
                3,
                glance.ready(
                    "Wanted models that are ready", "the models that this node is to hold"
                ),
                glance.in_stages(
                    "Models that fail",
                    "Not ready, because the last try failed; and ready ones whose update fails. A"
                    " table below has the reasons.",
                    *(Stage.FAILING, Stage.UPDATE_FAILING),
                    steps=BAD_IF_ANY,
                ),
                glance.fetching_now(),
                glance.until_the_last(),
                # No colour: a cache is there to be full. What is missing has one.
                number(
                    "Room that is taken",
                    "Of what the cache may take of the disk, the share that it takes. Nothing is"
                    " wrong with a full cache: what nothing needs goes by itself.",
                    f"{taken} / ({budget} > 0)",
                    unit=SHARE,
                ),
                glance.room_missing(),
            ),
            evenly(
                3,
                number(
                    "In the page cache",
                    "Of the bytes of models that are ready, the share that is in memory.",
                    ratio(
                        f"sum({copies('modelcache_model_resident_bytes')})",
                        f"sum({sizes} and on ({COPY}) {READY} == 1)",
                    ),
                    unit=SHARE,
                    none="not known",
                ),
                glance.other_read_ahead(),
                number(
                    "Evicted, and regretted",
                    "What was evicted in the time that is shown, and what was fetched again within"
                    " a day after it had been.",
                    Query(grown(of("modelcache_evictions_total", *NODE)), "evicted"),
                    Query(grown(of("modelcache_evictions_regretted_total", *NODE)), "regretted"),
                ),
                glance.damaged_files(),
                number(
                    "Last whole round",
                    "How long ago the agent last went through all that it has to do.",
                    BEHIND,
                    unit=SECONDS,
                    steps=((None, "green"), (120, "yellow"), (300, "red")),
                    none="not known",
                ),
                glance.not_fetched_again(),
            ),
        ],
    )
