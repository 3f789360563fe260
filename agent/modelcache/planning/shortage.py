"""How much room is missing for all models together that are wanted and don't fit.

Each for itself lacks less than all together: what is free, or may go, is there once. So they are
gone through as they would be fetched: the more important first, then the smaller; each has what the
ones before it leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelcache.planning.candidates import Candidate
from modelcache.planning.evicting import Amount, Decision, Hold, Room, decide
from modelcache.planning.leftovers import Leftover
from modelcache.planning.using import Uses


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A model for which there is no room.

    Attributes:
        model, priority: whose.
        need: what its fetch needs.
        kept: room that it can't have, as it is kept for others.
        shares: as of `Room`.
    """

    model: str
    priority: int
    need: Amount
    kept: Amount = field(default_factory=Amount)
    shares: frozenset[str] = frozenset()


def shortage(
    newcomers: Iterable[Newcomer],
    left: Amount,
    candidates: Sequence[Candidate],
    uses: Uses,
    *,
    now: float,
    grace: float | None,
    leftovers: Sequence[Leftover] = (),
) -> Amount:
    """What is missing for all of them, even if all goes that may.

    Args:
        newcomers: in any order. What they have in common with each other counts for each.
        left: what is free for them; below zero: so much is missing already.
        candidates, uses, now, grace, leftovers: as of `decide`.
    """
    missing = Amount()
    there, rest = tuple(candidates), tuple(leftovers)
    for each in sorted(newcomers, key=lambda new: (-new.priority, new.need.bytes, new.model)):
        lack = (left - each.kept).lacks(each.need)
        left -= each.need
        if not lack:
            continue
        room = Room(each.model, each.priority, lack, each.shares)
        decision = decide(there, uses, room, now=now, grace=grace, leftovers=rest)
        gone = _gone(decision)
        before = _contents(there, rest)
        there = tuple(candidate.without(gone) for candidate in there)
        rest = tuple(other for other in rest if (other.model, other.name) not in gone)
        after = _contents(there, rest)
        freed = [
            size
            for digest, size in before.items()
            if digest not in after and digest not in each.shares
        ]
        # As if somebody had given what is missing: it is not missing once more for the next one.
        left += Amount(sum(freed), len(freed)) + decision.missing
        missing += decision.missing
    return missing


def _gone(decision: Decision) -> set[tuple[str, str]]:
    """What goes; where that isn't enough, all that would."""
    if decision.missing:
        return {(s.model, s.snapshot) for s in decision.staying if s.hold is Hold.IN_VAIN}
    return {(going.model, name) for going in decision.going for name in going.snapshots}


def _contents(candidates: Iterable[Candidate], leftovers: Iterable[Leftover]) -> Mapping[str, int]:
    """Bytes on the disk of each content."""
    found: dict[str, int] = {}
    for candidate in candidates:
        for revision in candidate.revisions:
            found |= revision.blobs
    for each in leftovers:
        found |= each.content
    return found
