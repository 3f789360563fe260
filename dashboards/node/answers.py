"""The first row."""

from __future__ import annotations

from dashboards.boards import Row, evenly
from dashboards.panels import number
from dashboards.queries import (
    BEHIND,
    COPY,
    DRIFTED,
    FAILING,
    MODEL,
    NODE,
    READY,
    STILL,
    WAITED_FOR,
    WANTED,
    copies,
    counted,
    counted_since,
    grown,
    of,
    places,
    rate,
    ratio,
)
from dashboards.style import (
    BAD_IF_ANY,
    BYTES,
    GOOD_IF_ALL,
    ODD_IF_ANY,
    SECONDS,
    SHARE,
    SPEED,
    Query,
)


def answers() -> Row:
    """At a glance."""
    taken, budget = places("modelcache_disk_taken_bytes"), places("modelcache_disk_budget_bytes")
    sizes = copies("modelcache_model_size_bytes")
    return Row(
        "At a glance",
        [
            evenly(
                3,
                number(
                    "Wanted models that are ready",
                    "Of the models that this node is to hold, the share that is whole, verified and"
                    " visible to pods.",
                    ratio(f"sum({READY} * on ({COPY}) {WANTED})", f"sum({WANTED})"),
                    unit=SHARE,
                    steps=GOOD_IF_ALL,
                    none="nothing is wanted",
                ),
                number(
                    "Not ready",
                    "Wanted models that are not there, and models whose last try failed.",
                    Query(counted(WAITED_FOR), "waited for"),
                    Query(counted(FAILING), "failing"),
                    steps=ODD_IF_ANY,
                ),
                number(
                    "Fetching now",
                    "What comes from origins and mirrors.",
                    rate(of("modelcache_received_bytes_total", *NODE)),
                    unit=SPEED,
                    none="nothing comes",
                ),
                number(
                    "Until the last one is there",
                    "The longest time still to go at the present speed.",
                    f"max({STILL})",
                    unit=SECONDS,
                    none="nothing comes",
                ),
                number(
                    "Room that is taken",
                    "Of what the cache may take of the disk, the share that it takes.",
                    f"{taken} / ({budget} > 0)",
                    unit=SHARE,
                    steps=((None, "green"), (0.85, "yellow"), (0.95, "red")),
                ),
                number(
                    "Room that is missing",
                    "What wanted models lack, whatever goes that may.",
                    places("modelcache_disk_short_bytes"),
                    unit=BYTES,
                    steps=BAD_IF_ANY,
                ),
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
                number(
                    "Devices with other read-ahead",
                    "Devices whose read-ahead is not what a rule wants.",
                    counted(DRIFTED),
                    steps=ODD_IF_ANY,
                ),
                number(
                    "Evicted, and regretted",
                    "What was evicted in the time that is shown, and what of such was fetched again"
                    " within a day.",
                    Query(grown(of("modelcache_evictions_total", *NODE)), "evicted"),
                    Query(grown(of("modelcache_evictions_regretted_total", *NODE)), "regretted"),
                ),
                number(
                    "Damaged files found",
                    "In the time that is shown. They are withdrawn and fetched again.",
                    counted_since(of("modelcache_scrub_damaged_files_total", *NODE)),
                    steps=BAD_IF_ANY,
                ),
                number(
                    "Last whole round",
                    "How long ago the agent last went through all that it has to do.",
                    BEHIND,
                    unit=SECONDS,
                    steps=((None, "green"), (120, "yellow"), (300, "red")),
                    none="not known",
                ),
                number(
                    "Saved here",
                    "Bytes that were not fetched again, in the time that is shown.",
                    grown(of("modelcache_served_bytes_total", *MODEL)),
                    unit=BYTES,
                ),
            ),
        ],
    )
