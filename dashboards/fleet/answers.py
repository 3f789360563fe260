"""The first row: an answer to each question, and a colour where it is a bad one."""

from __future__ import annotations

from typing import Final

from dashboards import glance
from dashboards.boards import Row, evenly
from dashboards.panels import number
from dashboards.queries import BEHIND, CLUSTER, NODE, counted, grown, of, places, rate
from dashboards.style import BAD_IF_ANY, ODD_IF_ANY, REQUESTS, Query
from modelcache.planning.wording import Stage

_AGENTS: Final = of("up", *NODE, 'job="modelcache-agent"')
_SICK: Final = places("modelcache_disk_state", 'state!="ok"')


def answers() -> Row:
    """At a glance."""
    return Row(
        "At a glance",
        [
            evenly(
                3,
                glance.ready(
                    "Wanted copies that are ready", "all copies of models that nodes are to hold"
                ),
                glance.in_stages(
                    "Copies still to come",
                    "Wanted on a node and not ready there, and nothing is wrong with them: they"
                    " come, or wait for their turn.",
                    *(Stage.ON_THE_WAY, Stage.WAITING),
                    steps=ODD_IF_ANY,
                ),
                glance.in_stages(
                    "Copies that fail",
                    "Not ready, because the last try failed; and ready ones whose update fails. All"
                    " are tried again by themselves; a table below has the reasons.",
                    *(Stage.FAILING, Stage.UPDATE_FAILING),
                    steps=BAD_IF_ANY,
                ),
                glance.fetching_now(),
                glance.until_the_last(),
                number(
                    "Agents that answer",
                    "Agents that Prometheus reaches, and all that it knows of.",
                    Query(f"sum({_AGENTS})", "answer"),
                    Query(f"count({_AGENTS})", "in all"),
                    none="none known",
                ),
            ),
            evenly(
                3,
                glance.room_missing(),
                number(
                    "Evictions that hurt",
                    "What was fetched again within a day after it had been evicted, in the time"
                    " that is shown.",
                    grown(of("modelcache_evictions_regretted_total", *NODE)),
                    steps=ODD_IF_ANY,
                ),
                glance.damaged_files(),
                glance.not_fetched_again(),
                glance.time_not_waited(),
                glance.starts_that_hit("Compile caches that hit"),
            ),
            evenly(
                3,
                glance.other_read_ahead(),
                number(
                    "Sick disks",
                    "Nodes whose cache can't be read or written as it should.",
                    counted(f"{_SICK} == 1"),
                    steps=BAD_IF_ANY,
                ),
                number(
                    "Agents that are behind",
                    "Agents that have not gone through all that they have to do for five minutes.",
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
                    steps=((None, "red"), (1, "green")),
                    none="none known",
                ),
            ),
        ],
    )
