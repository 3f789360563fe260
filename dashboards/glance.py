"""Numbers that the first rows of more than one dashboard have."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from dashboards.panels import number
from dashboards.queries import (
    COPY,
    DRIFTED,
    MODEL,
    NODE,
    READY,
    STAGES,
    STILL,
    WANTED,
    counted,
    counted_since,
    grown,
    of,
    places,
    rate,
    ratio,
)
from dashboards.shared import STARTS
from dashboards.style import (
    BAD_IF_ANY,
    BYTES,
    GOOD_IF_ALL,
    ODD_IF_ANY,
    SECONDS,
    SHARE,
    SPEED,
    Query,
    Steps,
)
from modelcache.planning.wording import Stage


def ready(title: str, of_what: str) -> Panel:
    """The share that is there. `of_what`: that of which it is a share."""
    return number(
        title,
        f"Of {of_what}, the share that is whole, verified and visible to pods.",
        ratio(f"sum({READY} * on ({COPY}) {WANTED})", f"sum({WANTED})"),
        unit=SHARE,
        steps=GOOD_IF_ALL,
        none="nothing is wanted",
    )


def in_stages(title: str, description: str, *stages: Stage, steps: Steps) -> Panel:
    """How many copies are in these stages, a number of each."""
    asked = (Query(counted(STAGES[each]), each.word) for each in stages)
    return number(title, description, *asked, steps=steps)


def fetching_now() -> Panel:
    """How fast bytes come."""
    return number(
        "Fetching now",
        "Bytes a second that come from origins and mirrors, to all of the chosen nodes together.",
        rate(of("modelcache_received_bytes_total", *NODE)),
        unit=SPEED,
        none="nothing comes",
    )


def until_the_last() -> Panel:
    """How long still."""
    return number(
        "Until the last one is there",
        "Of the models that are on the way, the longest time left at the present speed. One that"
        " stands still has none, and doesn't count.",
        f"max({STILL})",
        unit=SECONDS,
        none="nothing comes",
    )


def room_missing() -> Panel:
    """Whether the disk is too small."""
    return number(
        "Room that is missing",
        "Bytes of disk that wanted models lack on their nodes, all of them together, even if all"
        " went that may.",
        f"sum({places('modelcache_disk_short_bytes')})",
        unit=BYTES,
        steps=BAD_IF_ANY,
    )


def other_read_ahead() -> Panel:
    """Whether read-ahead is as wanted."""
    return number(
        "Devices with other read-ahead",
        "Devices whose read-ahead is not what a rule wants.",
        counted(DRIFTED),
        steps=ODD_IF_ANY,
    )


def damaged_files() -> Panel:
    """Whether what is there is whole."""
    return number(
        "Damaged files found",
        "Files that were read back and were not what they had been, in the time that is shown."
        " They are withdrawn and fetched again.",
        counted_since(of("modelcache_scrub_damaged_files_total", *NODE)),
        steps=BAD_IF_ANY,
    )


def not_fetched_again() -> Panel:
    """What the cache spared."""
    return number(
        "Bytes not fetched again",
        "The size of each model each time that somebody began to use it from the disk, in the"
        " time that is shown.",
        grown(of("modelcache_served_bytes_total", *MODEL)),
        unit=BYTES,
    )


def time_not_waited(*matchers: str) -> Panel:
    """What that was worth to who waits."""
    return number(
        "Time not waited",
        "What starts were spared in the time that is shown: what the fetch of a model had taken,"
        " each time that somebody began to use it, and compiling.",
        Query(grown(of("modelcache_saved_seconds_total", *MODEL)), "fetching"),
        Query(
            grown(of("modelcache_compile_seconds_saved_total", *(matchers or NODE))), "compiling"
        ),
        unit=SECONDS,
    )


def starts_that_hit(title: str, *matchers: str) -> Panel:
    """Whether compile caches help."""
    return number(
        title,
        "Of the starts of engines whose log could be read, those that compiled nothing, in the"
        " time that is shown.",
        ratio(
            grown(of(STARTS, *(matchers or NODE), 'result="Hit"')),
            grown(of(STARTS, *(matchers or NODE), 'result!="Unknown"')),
        ),
        unit=SHARE,
        none="no starts",
    )
