"""Rows about its disk, its memory, and what reads ahead."""

from __future__ import annotations

from typing import Final

from dashboards import shared
from dashboards.boards import Row, band, evenly, link_to_model
from dashboards.panels import graph, number, per_step, states, table
from dashboards.queries import MODEL, NODE, RATE, copies, each, grown, of, places, rate
from dashboards.style import (
    BAD_IF_ANY,
    BYTES,
    COUNT,
    ODD_IF_ANY,
    PLAIN,
    SECONDS,
    SHARE,
    SPEED,
    Column,
    Key,
    Query,
)

MODEL_KEY: Final = Key("model", "Model", link_to_model("node"))


def disk() -> Row:
    """Whether it is full, what went, and whether that hurt."""

    def part(name: str) -> str:
        return places(f"modelcache_disk_{name}_bytes")

    conditions = ("ok", "failing", "down")
    return Row(
        "Is the disk full, what was evicted, and did that hurt?",
        [
            evenly(
                9,
                graph(
                    "Disk",
                    "The size of the file system and what is free of it; what the cache may take"
                    " (budget), what it takes, what of that is content, and what it has promised to"
                    " fetches.",
                    Query(part("capacity"), "size"),
                    Query(part("free"), "free"),
                    Query(part("budget"), "budget"),
                    Query(part("taken"), "taken"),
                    Query(part("used"), "content"),
                    Query(part("reserved"), "promised"),
                    unit=BYTES,
                ),
                graph(
                    "Room for fetches",
                    "What fetches may still take, and what wanted models lack, even if all went"
                    " that may.",
                    Query(part("available"), "available"),
                    Query(part("short"), "missing"),
                    unit=BYTES,
                ),
                graph(
                    "Files that the disk can hold",
                    "Inodes of the file system, and those that are free. Without one nothing new"
                    " can be written, however many bytes are free.",
                    Query(places("modelcache_disk_inodes"), "in all"),
                    Query(places("modelcache_disk_inodes_free"), "free"),
                    unit=COUNT,
                ),
            ),
            evenly(
                8,
                shared.evictions_by_rule(),
                shared.evicted_bytes_by_rule(),
                shared.regretted_by_rule(),
            ),
            band(
                4,
                (
                    24,
                    states(
                        "Condition of the disk",
                        "Whether the cache can be read and written: ok, failing (errors were met)"
                        " or down (nothing is done until it answers again).",
                        Query(
                            shared.numbered("modelcache_disk_state", "node", conditions, *NODE),
                            "{{node}}",
                        ),
                        conditions,
                    ),
                ),
            ),
        ],
    )


def page_cache() -> Row:
    """What is in memory."""
    dropped = of("modelcache_warmer_dropped_bytes_total", *NODE)
    failed = of("modelcache_warmer_failures_total", *NODE)
    return Row(
        "What is in the page cache?",
        [
            evenly(
                8,
                graph(
                    "Models in memory",
                    "Bytes of each model that is ready that are in the page cache. A start reads"
                    " these from memory.",
                    Query(copies("modelcache_model_resident_bytes"), "{{model}}"),
                    unit=BYTES,
                    stacked=True,
                ),
                graph(
                    "Share in memory",
                    "The share of each model that is ready that is in the page cache.",
                    Query(copies("modelcache_model_resident_ratio"), "{{model}}"),
                    unit=SHARE,
                    most=1,
                ),
                graph(
                    "Warming",
                    "Bytes that the warmer brought into the page cache, and those that it dropped"
                    " from it because they are no longer asked for (unwanted) or to leave memory to"
                    " others (memory).",
                    Query(rate(of("modelcache_warmer_read_bytes_total", *NODE)), "read"),
                    Query(rate(dropped, "cause"), "dropped: {{cause}}"),
                    unit=SPEED,
                ),
            ),
            band(
                8,
                (
                    16,
                    table(
                        "Models that are to be in memory",
                        "What the warmer is to keep in the page cache: the size, what of it is"
                        " there, and by how much the memory for models is too small for it.",
                        (MODEL_KEY,),
                        [
                            Column(
                                each("model", of(f"modelcache_warmer_model_{name}_bytes", *MODEL)),
                                title,
                                BYTES,
                                steps,
                            )
                            for name, title, steps in (
                                ("size", "Size", PLAIN),
                                ("resident", "In memory", PLAIN),
                                ("missing", "Lacks", BAD_IF_ANY),
                            )
                        ],
                        order=("Model", False),
                    ),
                ),
                (
                    4,
                    number(
                        "Memory for models",
                        "Bytes of models that the warmer may keep in memory.",
                        places("modelcache_warmer_budget_bytes"),
                        unit=BYTES,
                        none="no warmer",
                    ),
                ),
                (
                    4,
                    number(
                        "Files that can't be warmed",
                        "Files that the warmer could not read, look at or drop, in the time that is"
                        " shown.",
                        grown(failed),
                        steps=ODD_IF_ANY,
                        none="no warmer",
                    ),
                ),
            ),
        ],
    )


def read_ahead() -> Row:
    """Whether it is as wanted."""
    device = "device, bdi"
    failing = each(device, of("modelcache_read_ahead_failing", *NODE))
    return Row(
        "Is read-ahead as wanted?",
        [
            evenly(
                8,
                graph(
                    "Read-ahead",
                    "What each device that a rule is about reads ahead, and what it is to be.",
                    Query(
                        each(device, of("modelcache_read_ahead_bytes", *NODE)),
                        "{{device}} ({{bdi}})",
                    ),
                    Query(
                        each(device, of("modelcache_read_ahead_wanted_bytes", *NODE)),
                        "{{device}} ({{bdi}}), wanted",
                    ),
                    unit=BYTES,
                ),
                graph(
                    "Devices whose read-ahead can't be set",
                    "1 for a device whose read-ahead can't be set.",
                    Query(failing, "{{device}} ({{bdi}})"),
                    unit=COUNT,
                ),
                shared.read_ahead_set(),
            )
        ],
    )


def scrubbing() -> Row:
    """Whether it is still whole."""
    damaged = of("modelcache_scrub_damaged_files_total", *NODE)
    healed = of("modelcache_healed_files_total", *NODE)
    oldest = places("modelcache_scrub_oldest_timestamp_seconds")
    return Row(
        "Is what is here still whole?",
        [
            evenly(
                8,
                number(
                    "Longest not read back",
                    "How long ago the file that waits for the longest to be read back was last"
                    " known to be whole.",
                    f"time() - ({oldest} > 0)",
                    unit=SECONDS,
                    steps=((None, "green"), (14 * 86400, "yellow")),
                    none="not known",
                ),
                graph(
                    "Read back",
                    "How fast the cache is read back and compared with its digests.",
                    Query(rate(of("modelcache_scrubbed_bytes_total", *NODE)), "read back"),
                    unit=SPEED,
                ),
                per_step(
                    "Damaged and healed",
                    "Files that were found damaged in each step of the graph, and damaged ones that"
                    " are whole again.",
                    Query(
                        grown(damaged, over=RATE),
                        "damaged",
                    ),
                    Query(grown(healed, over=RATE), "healed"),
                    stacked=False,
                ),
            ),
            evenly(
                7,
                graph(
                    "Quarantine",
                    "Bytes of damaged files that are kept aside, for what is still good of them.",
                    Query(places("modelcache_quarantined_bytes"), "kept aside"),
                    unit=BYTES,
                ),
                graph(
                    "Files in quarantine",
                    "Damaged files that are kept aside.",
                    Query(places("modelcache_quarantined_files"), "kept aside"),
                    unit=COUNT,
                ),
            ),
        ],
    )
