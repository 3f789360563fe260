"""Rows about nodes: their disks, what else is kept there, and the programs."""

from __future__ import annotations

from dashboards import shared
from dashboards.boards import Row, band, evenly
from dashboards.fleet.keys import CLUSTER_KEY, NODE_KEY
from dashboards.panels import graph, table
from dashboards.queries import (
    BEHIND,
    CLUSTER,
    DRIFTED,
    NODE,
    PLACE,
    each,
    grown,
    of,
    places,
    ratio,
)
from dashboards.style import (
    BAD_IF_ANY,
    BYTES,
    COUNT,
    ODD_IF_ANY,
    PLAIN,
    SECONDS,
    SHARE,
    Column,
    Key,
    Query,
    Steps,
)


def disks() -> Row:
    """Whether they are full, what went, and whether that hurt."""

    def column(name: str, title: str, steps: Steps = PLAIN) -> Column:
        return Column(places(f"modelcache_disk_{name}_bytes"), title, BYTES, steps)

    states = each(f"{PLACE}, state", of("modelcache_disk_state", *NODE))
    taken, budget = places("modelcache_disk_taken_bytes"), places("modelcache_disk_budget_bytes")
    inodes = f"{places('modelcache_disk_inodes_free')} / ({places('modelcache_disk_inodes')} > 0)"
    return Row(
        "Are disks full, what was evicted, and did that hurt?",
        [
            band(
                9,
                (
                    24,
                    table(
                        "Disks",
                        "What each node's cache may take of its disk (budget), and what it takes:"
                        " content, and what fetches have left. What is promised to fetches, what"
                        " is available for more, and what wanted models lack. Nothing is wrong"
                        " with a full cache.",
                        (CLUSTER_KEY, NODE_KEY, Key("state", "State")),
                        [
                            Column(f"{states} == 1"),
                            column("capacity", "Capacity"),
                            column("budget", "Budget"),
                            column("taken", "Taken"),
                            Column(f"{taken} / ({budget} > 0)", "Share taken", SHARE, cell="gauge"),
                            column("used", "Content"),
                            column("reserved", "Promised"),
                            column("available", "Available"),
                            column("short", "Missing", BAD_IF_ANY),
                            Column(inodes, "Inodes free", SHARE),
                        ],
                        order=("Missing", True),
                    ),
                ),
            ),
            evenly(
                8,
                shared.evictions_by_rule(),
                shared.evicted_bytes_by_rule(),
                shared.regretted_by_rule(),
            ),
        ],
    )


def compile_caches() -> Row:
    """Whether they hit."""

    def starts(*matchers: str) -> str:
        return grown(of(shared.STARTS, *NODE, *matchers), "compile_cache")

    saved = grown(of("modelcache_compile_seconds_saved_total", *NODE), "compile_cache")
    on_nodes = of("modelcache_compile_cache_nodes", *CLUSTER, 'state="missing"')
    return Row(
        "Are compile caches hitting?",
        [
            band(
                8,
                (
                    14,
                    table(
                        "Compile caches",
                        "Starts in the time that is shown, how many compiled nothing, what that"
                        " spared, and the nodes for whose hardware and engine nothing was published"
                        " yet. The dashboard Cold start has more.",
                        (Key("compile_cache", "Compile cache"),),
                        [
                            Column(starts(), "Starts"),
                            Column(
                                ratio(starts('result="Hit"'), starts('result!="Unknown"')),
                                "Hits",
                                SHARE,
                                cell="gauge",
                            ),
                            Column(saved, "Spared", SECONDS),
                            Column(each("compile_cache", on_nodes), "Nodes without"),
                        ],
                        order=("Starts", True),
                    ),
                ),
                (10, shared.starts_by_result()),
            )
        ],
    )


def read_ahead() -> Row:
    """Whether it is as wanted."""
    device = "cluster, node, device"
    wanted = each(device, of("modelcache_read_ahead_wanted_bytes", *NODE))
    failing = each(device, of("modelcache_read_ahead_failing", *NODE))
    return Row(
        "Is read-ahead as wanted?",
        [
            band(
                8,
                (
                    14,
                    table(
                        "Read-ahead of devices",
                        "What each device that a rule is about reads ahead of files that are read"
                        " from front to back, what it is to be, and whether it can't be set.",
                        (CLUSTER_KEY, NODE_KEY, Key("device", "Device")),
                        [
                            Column(
                                each(device, of("modelcache_read_ahead_bytes", *NODE)),
                                "Is",
                                BYTES,
                            ),
                            Column(wanted, "Wanted", BYTES),
                            Column(
                                f"({DRIFTED}) * 0 + 1",
                                "Differs",
                                steps=ODD_IF_ANY,
                                words={"1": "yes"},
                            ),
                            Column(
                                failing,
                                "Can't be set",
                                steps=BAD_IF_ANY,
                                words={"0": "no", "1": "yes"},
                            ),
                        ],
                        order=("Differs", True),
                    ),
                ),
                (10, shared.read_ahead_set()),
            )
        ],
    )


def programs() -> Row:
    """Whether they are well."""
    return Row(
        "Are the agents well?",
        [
            evenly(
                8,
                graph(
                    "Agents that are late",
                    "Of the agents the worst: by how much its present round is late, and how long"
                    " ago its last whole one was.",
                    Query(f"max({of('modelcache_reconcile_lag_seconds', *NODE)})", "late by"),
                    Query(f"max({BEHIND})", "last whole round"),
                    unit=SECONDS,
                ),
                shared.task_failures(),
                shared.api_by_code(),
            ),
            evenly(
                8,
                shared.reconcile_seconds(),
                graph(
                    "Catalogs",
                    "Things wrong with the catalog's documents at the node that finds the most,"
                    " and nodes that can't read their catalog.",
                    Query(f"max({of('modelcache_catalog_problems', *NODE)})", "problems"),
                    Query(f"sum({places('modelcache_catalog_unreadable')})", "can't read it"),
                    unit=COUNT,
                ),
                shared.versions(),
            ),
        ],
    )
