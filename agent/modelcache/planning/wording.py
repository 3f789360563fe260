"""How a model is, in the words that commands, the page and dashboards share; and their units.

| word | what it says of a model that is wanted |
|---|---|
| failing | it is not ready, and what went wrong last is not right yet |
| update failing | it is ready, and its next revision, or asking for one, fails |
| on the way | it is looked up at its origin, fetched, unpacked or read back |
| waiting | for its turn, for a permit, for its next round |
| ready | it is shown, and nothing is wrong |

*Unwanted* is what nothing wants, whatever is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import IntEnum
from typing import Final

from modelcache.api import ModelReport, ModelState
from modelcache.api.nodecache import CompileReport


class Stage(IntEnum):
    """How a model is, as one word; what needs somebody first sorts first."""

    FAILING = 0
    UPDATE_FAILING = 1
    ON_THE_WAY = 2
    WAITING = 3
    READY = 4
    UNWANTED = 5

    @property
    def word(self) -> str:
        """For people."""
        return self.name.lower().replace("_", " ")

    @property
    def key(self) -> str:
        """For programs: `updateFailing`."""
        first, *others = self.name.lower().split("_")
        return first + "".join(each.capitalize() for each in others)

    @property
    def is_ready(self) -> bool:
        """Whether it is wanted and can be used, whatever becomes of its next revision."""
        return self in (Stage.READY, Stage.UPDATE_FAILING)

    @property
    def is_failing(self) -> bool:
        """Whether somebody may have to look after it."""
        return self in (Stage.FAILING, Stage.UPDATE_FAILING)


ON_THE_WAY: Final = frozenset({ModelState.RESOLVING, ModelState.DOWNLOADING, ModelState.VERIFYING})
"""The states of a model that is on the way, unless something went wrong."""


def stage(report: ModelReport) -> Stage:
    """A model's stage. What is tried again is failing until it is right."""
    if not report.wanted:
        return Stage.UNWANTED
    failing = report.state is ModelState.FAILED or report.reason is not None or report.attempts
    if report.state is ModelState.READY:
        return Stage.UPDATE_FAILING if failing else Stage.READY
    if failing:
        return Stage.FAILING
    return Stage.ON_THE_WAY if report.state in ON_THE_WAY else Stage.WAITING


def state(report: ModelReport) -> str:
    """One model's state: `Downloading`; of one that is ready and whose update fails, both."""
    failing = stage(report) is Stage.UPDATE_FAILING
    return f"{report.state.value}, {Stage.UPDATE_FAILING.word}" if failing else report.state.value


def counted(stages: Mapping[Stage, int]) -> list[str]:
    """`1 failing`, `2 updates failing`, `3 on the way`: all but those that are ready."""
    found = []
    for each in Stage:
        number = stages.get(each, 0)
        if number and each is not Stage.READY:
            plural = each is Stage.UPDATE_FAILING and number > 1
            found.append(f"{number} {'updates failing' if plural else each.word}")
    return found


def next_try(report: ModelReport | CompileReport, now: datetime) -> str:
    """`next in 5s`; empty where none is planned."""
    if report.retry_at is None:
        return ""
    wait = (report.retry_at - now).total_seconds()
    return f"next in {duration(wait)}" if wait > 0 else "tried again now"


def tries(report: ModelReport | CompileReport) -> str:
    """`3 tries failed`; empty where none did."""
    if not report.attempts:
        return ""
    return f"{report.attempts} {'try' if report.attempts == 1 else 'tries'} failed"


def duration(seconds: float) -> str:
    """`90s`, `5m`, `3h`, `2d`: one unit, cut off, as kubectl's AGE has it."""
    left = max(0, int(seconds))
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "m"), (172_800, 3600, "h")):
        if left < limit:
            return f"{left // unit}{name}"
    return f"{left // 86_400}d"


def share(part: float, whole: float) -> str:
    """`61%`, cut off: 100% is all of it. Of nothing it is `0%`."""
    return f"{min(100, int(part * 100 // whole))}%" if whole > 0 else "0%"
