"""What a root holds and who needs it, for commands that decide what goes beside an agent."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from modelcache.api import DiskReport, ModelReport, ModelState
from modelcache.planning.candidates import Candidate, Wish, candidates
from modelcache.planning.evicting import Above, Amount, Decision, Going, Occasion, Room, decide
from modelcache.planning.leftovers import Asked, Leftover, leftovers
from modelcache.planning.using import User, Uses
from modelcache.service.inventory import Inventory
from modelcache.service.lettinggo import may_go as is_unused
from modelcache.service.looking import model_reports
from modelcache.service.reporting import read_node_report
from modelcache.service.using import Using
from modelcache.store import DiskSpace, Store

_ALL = Amount(1 << 62, 1 << 62)
_FETCHING = (ModelState.DOWNLOADING, ModelState.VERIFYING)


@dataclass(frozen=True, slots=True)
class Collection:
    """What there is at one moment.

    Attributes:
        reports: every model that is here, or that the agent's last report speaks of, by name.
        candidates: every model of which something is here.
        uses: who uses what.
        space: the disk.
        grace: seconds for which content is kept that nothing wants; None: for ever.
        leftovers: what else takes room.
        now: seconds since the epoch.
        is_told: whether the limits in `space` are those of the agent at work here.
    """

    reports: dict[str, ModelReport]
    candidates: tuple[Candidate, ...]
    uses: Uses
    space: DiskSpace
    grace: float | None
    leftovers: tuple[Leftover, ...]
    now: float
    is_told: bool = False

    def decide(self, occasion: Occasion) -> Decision:
        """What would go on an occasion."""
        return decide(
            self.candidates,
            self.uses,
            occasion,
            now=self.now,
            grace=self.grace,
            leftovers=self.leftovers,
        )

    def all_that_may(self) -> Decision:
        """All that nothing needs."""
        return self.decide(Above(_ALL))

    def room(self, name: str, size: int, priority: int) -> Decision:
        """What would go for a model of so many bytes; nothing where it fits as it is."""
        left = self.space.budget - self.space.used - self.space.reserved
        return self.decide(Room(name, priority, Amount(max(0, size - left))))


def collection(store: Store, grace: float | None, told: DiskReport | None = None) -> Collection:
    """Look at a root, as it is now. What is wanted is as its agent last reported it.

    Without an agent's word all that is here is wanted: somebody has brought it.

    Args:
        store: the root.
        grace: seconds for which content is kept that nothing wants; None: for ever.
        told: the disk as an agent tells it at this moment: it decides by its own limits, and
            whoever runs a command beside it may not know them.
    """
    reports = {report.name: report for report in model_reports(store)}
    now = time.time()
    there = candidates(
        {name: Wish.told(report) for name, report in reports.items() if report.wanted},
        Inventory(store).read(),
        {},
        {
            name: report.unwanted_since.timestamp() if report.unwanted_since else now
            for name, report in reports.items()
            if not report.wanted
        },
        last_used=store.last_use.of,
        block=store.space.block,
    )
    uses = users(store, reports.values())
    space = store.space.measure(exact=True)
    left = leftovers(store.remnants.all(), _asked(store, reports, space), now)
    if told is None or not told.capacity:  # it has not looked yet
        return Collection(reports, there, uses, space, grace, left, now)
    return Collection(reports, there, uses, _limited(space, told), grace, left, now, is_told=True)


def _limited(space: DiskSpace, told: DiskReport) -> DiskSpace:
    return replace(
        space,
        used=told.taken,
        budget=told.budget,
        reserved=told.reserved,
        available=told.available,
        # What the cache and the others take together is what is on the disk, whoever counts.
        others=max(0, space.others + space.used - told.taken),
        kept_free=space.kept_free if told.kept_free is None else told.kept_free,
    )


def _asked(store: Store, reports: Mapping[str, ModelReport], space: DiskSpace) -> Asked:
    """What an agent's last word says of what is wanted; without one, anything may be.

    What a wanted model needs, it alone knows. What it fetches, it can stop.
    """
    silent = read_node_report(store.layout) is None
    wanted = {name: report for name, report in reports.items() if report.wanted}
    return Asked(
        dict.fromkeys(wanted),
        fetching=frozenset(promise.what for promise in space.promises),
        in_doubt=lambda _: "no agent has said here what is wanted" if silent else "",
        wishes={name: Wish.told(report) for name, report in wanted.items()},
        promised={
            name: sum(p.bytes + p.names for p in space.promises if p.what == name)
            for name, report in wanted.items()
            if report.state in _FETCHING
        },
    )


def users(store: Store, reports: Iterable[ModelReport]) -> Uses:
    """Who uses what: what this machine tells now, and what the agent knew when it last reported.

    It alone knows of pods, which may have no file open at this moment.
    """
    here = Using(store, alone=True).uses()
    known = [report for report in reports if report.used_by and not here.of(report.name)]
    return here | Uses(
        tuple(
            User("pod", "of this node", report.name, how="uses it, as its agent last reported")
            for report in known
        )
    )


def may_go(store: Store, going: Going, reports: dict[str, ModelReport]) -> bool:
    """Whether nobody uses, at this moment, what is about to go."""
    return is_unused(users(store, reports.values()), going)
