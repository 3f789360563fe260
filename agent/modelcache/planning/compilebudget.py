"""What may run at once for compile caches, so that a place that hangs holds up no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from modelcache.planning.compileactions import Fetch, Look, Publish, Work

_MOST_ASKED: Final = 64
"""So many permits are asked for in one question (`cluster.permits`)."""
_RANK: Final[Mapping[type[Work], int]] = {Publish: 0, Fetch: 1, Look: 2}
"""First what others wait for, then what pods of this node wait for."""


@dataclass(frozen=True, slots=True)
class Running:
    """Something that runs for an object: at most one thing for each.

    Attributes:
        work: what it is.
        spec, key: what the object asked for when it began.
        place: where.
        stuck: whether there has been no answer for some time.
    """

    work: Work
    spec: str
    key: str
    place: str
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may run at once.

    Attributes:
        moving: of what gives answers.
        all: also of what doesn't.
        place: at one place, so that one that hangs leaves the others theirs.
        look_seconds: between two looks at a place without a reason.
        keep_seconds: how long a bundle is kept that is of no use any more: a pod may be about to
            be seeded from it.
    """

    moving: int = 8
    all: int = 64
    place: int = 4
    look_seconds: float = 300.0
    keep_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Begun:
    """What begins of what is wanted.

    Attributes:
        work: what begins now, in this order.
        waiting: objects whose work waits until other work has ended, or for a permit.
        permitted: digests of fetches that wait for a look to end: their permits are kept.
        unpermitted: digests of fetches that wait for a permit, at places that have room for them.
        room: how many of those permits are of use now: who holds one keeps other nodes waiting.
    """

    work: tuple[Work, ...]
    waiting: frozenset[str]
    permitted: tuple[str, ...] = ()
    unpermitted: tuple[str, ...] = ()
    room: int = 0


def begin(
    wanted: Iterable[Work],
    places: Mapping[str, str],
    running: Iterable[Running],
    left_behind: Mapping[str, int],
    limits: Limits,
    permitted: Container[str] | None,
) -> Begun:
    """Which of these begin now. Who waits for a permit holds up nobody.

    Args:
        wanted: at most one thing for each object, none of which runs.
        places: of each object.
        running, left_behind, limits, permitted: as for `compilecaches.plan`.
    """
    ranked = sorted(wanted, key=lambda work: (_RANK[type(work)], work.name))
    running = list(running)
    room = _Room.of(running, left_behind, limits)
    begun: list[Work] = []
    waiting: list[Work] = []
    for work in ranked:
        begins = _may(work, permitted) and room.take(places[work.name])
        (begun if begins else waiting).append(work)
    names = frozenset(work.name for work in waiting)
    if permitted is None:
        return Begun(tuple(begun), names)
    # A look is over in a moment, and its turn is a fetch's then: no permit is given back for it.
    lasting = [what for what in running if what.stuck or not isinstance(what.work, Look)]
    room = _Room.of(lasting, left_behind, limits)
    for work in begun:
        if not isinstance(work, Look):
            room.take(places[work.name])
    fetches = [work for work in waiting if isinstance(work, Fetch)]
    kept = [work for work in fetches if work.digest in permitted and room.take(places[work.name])]
    asked = [
        work
        for work in fetches
        if work.digest not in permitted and room.at_place[places[work.name]] < limits.place
    ][:_MOST_ASKED]
    return Begun(
        tuple(begun),
        names,
        permitted=tuple(work.digest for work in kept),
        unpermitted=tuple(work.digest for work in asked),
        room=sum(room.take(places[work.name]) for work in asked),
    )


def _may(work: Work, permitted: Container[str] | None) -> bool:
    return not isinstance(work, Fetch) or permitted is None or work.digest in permitted


@dataclass(slots=True)
class _Room:
    """What else may run."""

    limits: Limits
    at_place: Counter[str]
    moving: int
    every: int

    @classmethod
    def of(
        cls, running: Iterable[Running], left_behind: Mapping[str, int], limits: Limits
    ) -> _Room:
        running = list(running)
        at_place = Counter(what.place for what in running) + Counter(left_behind)
        moving = sum(not what.stuck for what in running)
        return cls(limits, at_place, moving, len(running) + sum(left_behind.values()))

    def take(self, place: str) -> bool:
        """Let something more run at a place, if that may be."""
        limits = self.limits
        here = self.at_place[place] < limits.place
        if not (here and self.moving < limits.moving and self.every < limits.all):
            return False
        self.at_place[place] += 1
        self.moving += 1
        self.every += 1
        return True
