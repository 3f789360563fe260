"""The first row: an answer to each question, and a colour where it is a bad one."""

from __future__ import annotations

from typing import Final

from dashboards.boards import Row, evenly
from dashboards.panels import number
from dashboards.queries import (
    BEHIND,
    CLUSTER,
    COPY,
    DRIFTED,
    FAILING,
    MODEL,
    NODE,
    READY,
    STILL,
    WAITED_FOR,
    WANTED,
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
    REQUESTS,
    SECONDS,
    SHARE,
    SPEED,
    Query,
)

_AGENTS: Final = of("up", *NODE, 'job="modelcache-agent"')
_SICK: Final = places("modelcache_disk_state", 'state!="ok"')


def answers() -> Row:
    """At a glance."""
    return Row(
        "At a glance",
        [
            evenly(
                3,
                number(
                    "Wanted copies that are ready",
                    "Of all copies of models that nodes are to hold, the share that is whole,"
                    " verified and visible to pods.",
                    ratio(f"sum({READY} * on ({COPY}) {WANTED})", f"sum({WANTED})"),
                    unit=SHARE,
                    steps=GOOD_IF_ALL,
                    none="nothing is wanted",
                ),
                number(
                    "Copies that are waited for",
                    "Wanted on a node and not ready there. The table below says why.",
                    counted(WAITED_FOR),
                    steps=ODD_IF_ANY,
                ),
                number(
                    "Copies that fail",
                    "Their last try failed. They are tried again by themselves; the table below has"
                    " the reason.",
                    counted(FAILING),
                    steps=BAD_IF_ANY,
                ),
                number(
                    "Fetching now",
                    "What comes from origins and mirrors at all nodes together.",
                    rate(of("modelcache_received_bytes_total", *NODE)),
                    unit=SPEED,
                    none="nothing comes",
                ),
                number(
                    "Until the last one is there",
                    "Of the models that are being fetched, the longest time still to go at the"
                    " present speed.",
                    f"max({STILL})",
                    unit=SECONDS,
                    none="nothing comes",
                ),
                number(
                    "Agents that answer",
                    "Agents that Prometheus reaches, and all that it knows of.",
                    Query(f"sum({_AGENTS})", "answer"),
                    Query(f"count({_AGENTS})", "there are"),
                    none="none known",
                ),
            ),
            evenly(
                3,
                number(
                    "Disk space that is missing",
                    "Bytes that wanted models lack on their nodes, whatever goes that may.",
                    f"sum({places('modelcache_disk_short_bytes')})",
                    unit=BYTES,
                    steps=BAD_IF_ANY,
                ),
                number(
                    "Evictions that hurt",
                    "What was fetched again within a day after it had been evicted, in the time"
                    " that is shown.",
                    grown(of("modelcache_evictions_regretted_total", *NODE)),
                    steps=ODD_IF_ANY,
                ),
                number(
                    "Damaged files found",
                    "Files that were read back and were not what they had been, in the time that is"
                    " shown. They are withdrawn and fetched again.",
                    counted_since(of("modelcache_scrub_damaged_files_total", *NODE)),
                    steps=BAD_IF_ANY,
                ),
                number(
                    "Bytes not fetched again",
                    "The size of each model each time that somebody began to use it from the disk,"
                    " in the time that is shown.",
                    grown(of("modelcache_served_bytes_total", *MODEL)),
                    unit=BYTES,
                ),
                number(
                    "Time not waited",
                    "What the fetches of these models had taken, each time that one was used, and"
                    " the compiling that starts were spared; in the time that is shown.",
                    Query(grown(of("modelcache_saved_seconds_total", *MODEL)), "fetching"),
                    Query(grown(of("modelcache_compile_seconds_saved_total", *NODE)), "compiling"),
                    unit=SECONDS,
                ),
                number(
                    "Compile caches that hit",
                    "Of the starts of engines whose log could be read, those that compiled nothing,"
                    " in the time that is shown.",
                    ratio(
                        grown(of("modelcache_compile_starts_total", *NODE, 'result="Hit"')),
                        grown(of("modelcache_compile_starts_total", *NODE, 'result!="Unknown"')),
                    ),
                    unit=SHARE,
                    none="no starts",
                ),
            ),
            evenly(
                3,
                number(
                    "Devices with other read-ahead",
                    "Devices whose read-ahead is not what a rule wants.",
                    counted(DRIFTED),
                    steps=ODD_IF_ANY,
                ),
                number(
                    "Sick disks",
                    "Nodes whose cache can't be read or written as it should.",
                    counted(f"{_SICK} == 1"),
                    steps=BAD_IF_ANY,
                ),
                number(
                    "Agents that are behind",
                    "Agents whose last whole round was more than five minutes ago.",
                    counted(f"{BEHIND} > 300"),
                    steps=BAD_IF_ANY,
                ),
                number(
                    "Problems in catalogs",
                    "Things wrong with the documents that say what is wanted, at the node that"
                    " finds the most.",
                    f"max({places('modelcache_catalog_problems')})",
                    steps=ODD_IF_ANY,
                ),
                number(
                    "Refused by API servers",
                    "Requests of the programs that were refused or not answered, a second.",
                    rate(of("modelcache_api_requests_total", *NODE, 'code!~"2..|304"')),
                    unit=REQUESTS,
                    none="none",
                ),
                number(
                    "Controllers that lead",
                    "One for each cluster: it counts nodes, and takes startup taints off.",
                    f"sum({of('modelcache_controller_leading', *CLUSTER)})",
                    none="none known",
                ),
            ),
        ],
    )
