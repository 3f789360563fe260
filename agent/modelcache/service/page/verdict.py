"""The first line of the page, and what somebody has to look after."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from modelcache.planning import wording
from modelcache.planning.wording import duration, stage
from modelcache.service.page.facts import Facts, counted
from modelcache.service.reporting import DISK_CONDITION

STALE_SECONDS: Final = 30.0
"""A report is made each second. One that is so old says that the agent doesn't get on."""


class Level(StrEnum):
    """How things are."""

    GOOD = "good"
    BUSY = "busy"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All of the page in a line."""

    level: Level
    headline: str
    rest: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong with the node and not with one of its models."""

    what: str
    message: str


def verdict(facts: Facts) -> Verdict:
    """How this node is."""
    if facts.status is None:
        rest = "The cache was not looked at yet. On a large or slow disk that takes a while."
        return Verdict(Level.BUSY, "Starting", rest)
    wanted = facts.wanted
    stages = Counter(map(stage, wanted))
    ready = sum(number for each, number in stages.items() if each.is_ready)
    missing = len(wanted) - ready
    wrong = len(troubles(facts))
    parts = wording.counted(stages)
    if wrong:
        parts.append(f"{counted(wrong, 'problem')} of the node itself")
    bad = wrong or any(each.is_failing for each in stages)
    level = Level.BAD if bad else Level.BUSY if missing else Level.GOOD
    if not wanted:
        here = counted(len(facts.status.models), "model")
        left = [f"{here} in the cache that nothing asks for"] if facts.status.models else []
        return Verdict(level, "Nothing is asked of this node", ", ".join([*left, *parts]))
    if not missing:
        headline = "The model is ready" if ready == 1 else f"All {ready} models are ready"
    else:
        headline = f"{ready} of {counted(len(wanted), 'model')} ready"
    return Verdict(level, headline, ", ".join(parts))


def troubles(facts: Facts) -> list[Trouble]:
    """What is wrong with the node itself, the worst first."""
    status = facts.status
    if status is None:
        return _hung(facts)
    found = _hung(facts)
    if facts.age > STALE_SECONDS:
        message = f"The agent's last look at its cache was {duration(facts.age)} ago."
        found.append(Trouble("Old facts", message))
    disk = facts.condition(DISK_CONDITION)
    if disk is not None and disk.status != "True":
        found.append(Trouble(f"Disk, {disk.reason}", disk.message))
    catalog = status.catalog
    found += [Trouble("Catalog", problem) for problem in catalog.problems]
    more = catalog.problem_count - len(catalog.problems)
    if more > 0:
        found.append(Trouble("Catalog", f"and {counted(more, 'more problem')}"))
    if status.unlabelled:
        names = ", ".join(status.unlabelled[:5]) + (", …" if len(status.unlabelled) > 5 else "")
        few = f"the node carries as many labels as it may, and none for {names}"
        found.append(Trouble("TooManyModels", few))
    return found


def _hung(facts: Facts) -> list[Trouble]:
    if not facts.hung:
        return []
    names = ", ".join(facts.hung)
    message = f"no sign of life from: {names}. The agent is to be restarted; kubelet does that."
    return [Trouble("Hung", message)]
