"""What goes when room is needed, and why; what stays, and why: a pure decision.

In this order: what is left of fetches that nothing wants, and what went bad; what nothing wants any
more, after its grace period; old revisions; models of a lower priority than what comes, the lowest
first, and of one priority what fetches have brought so far before what is whole. Within each, what
was used longest ago goes first. Never what is pinned, what is in use or may be, nor a model whose
priority is not lower: two models that are both wanted would drive each other out for ever. And
nothing goes in vain: what the rest makes room enough without stays, and where all of it would not
make room enough for what comes, all stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from modelcache.planning.candidates import Candidate, Revision, Role, Wish
from modelcache.planning.leftovers import Leftover
from modelcache.planning.moments import moment
from modelcache.planning.occasions import Above, Amount, GraceOver, Occasion, Room
from modelcache.planning.rules import Hold, Rule
from modelcache.planning.using import Uses

__all__ = [
    "Above",
    "Amount",
    "Decision",
    "Going",
    "GraceOver",
    "Hold",
    "Occasion",
    "Room",
    "Rule",
    "Staying",
    "decide",
    "moment",
]


@dataclass(frozen=True, slots=True)
class Going:
    """A model's snapshots that go together, by which rule, what that frees, and why."""

    model: str
    snapshots: tuple[str, ...]
    rule: Rule
    frees: Amount
    why: str

    @property
    def is_model(self) -> bool:
        """Whether it is a model's snapshots, and not something that is left on the disk."""
        return self.rule not in (Rule.LEFTOVER, Rule.QUARANTINE, Rule.LOWER_PRIORITY_FETCH)

    @property
    def was_wanted(self) -> bool:
        """Whether it goes only for something more important."""
        return self.rule in (Rule.LOWER_PRIORITY_FETCH, Rule.LOWER_PRIORITY)

    @property
    def whole(self) -> bool:
        """Whether the model is not ready any more: what shows it has to be taken away first."""
        return self.rule is Rule.LOWER_PRIORITY


@dataclass(frozen=True, slots=True)
class Staying:
    """A snapshot that stays, what holds it, how many bytes it takes, and why, as a sentence."""

    model: str
    snapshot: str
    hold: Hold
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What goes, in its order; what stays; what that frees, and what is missing even so."""

    going: tuple[Going, ...] = ()
    staying: tuple[Staying, ...] = ()
    frees: Amount = Amount()  # noqa: RUF009 - it never changes
    missing: Amount = Amount()  # noqa: RUF009 - it never changes


def decide(
    candidates: Iterable[Candidate],
    uses: Uses,
    occasion: Occasion,
    *,
    now: float,
    grace: float | None,
    leftovers: Iterable[Leftover] = (),
) -> Decision:
    """Decide what goes.

    Args:
        candidates: every model of which something is here.
        uses: who uses what.
        occasion: why something is to go.
        now: seconds since the epoch.
        grace: seconds for which content is kept that nothing wants any more; None: for ever.
        leftovers: what else takes room. None of it goes because a grace is over.
    """
    there = tuple(candidates)
    units, staying = _sorted(there, uses, occasion, now, grace)
    if not isinstance(occasion, GraceOver):
        found = [_left_unit(each, occasion) for each in leftovers]
        there += tuple(unit.candidate for unit, _ in found)
        for unit, each in found:
            if each.held and isinstance(occasion, Room) and _is_part(each, occasion.model):
                continue  # it is a part of what comes
            held = _left_hold(unit, each, uses, occasion)
            if held is None or not each.is_promise:
                _sort(unit, held, units, staying)
        units.sort(key=lambda unit: unit.order)
    ledger = _Ledger(there, occasion.shares if isinstance(occasion, Room) else frozenset())
    if isinstance(occasion, GraceOver):
        going = tuple(unit.going(ledger.take(unit)) for unit in units)
        return Decision(going, tuple(staying), ledger.freed)
    need = occasion.amount
    chosen = _chosen(units, ledger, need)
    missing = ledger.freed.lacks(need)
    in_vain = bool(missing) and isinstance(occasion, Room)
    rest = units if in_vain else [unit for unit in units if unit not in chosen]
    hold = Hold.IN_VAIN if in_vain else Hold.NOT_NEEDED
    # A model that may go whole has old revisions that were judged for themselves.
    judged = {(each.candidate.model, r.snapshot) for each in chosen for r in each.revisions}
    judged = set() if in_vain else judged
    judged |= {(each.model, each.snapshot) for each in staying}
    for unit in rest:
        told = [each for each in unit.staying(hold) if (each.model, each.snapshot) not in judged]
        judged |= {(each.model, each.snapshot) for each in told}
        staying += told
    if in_vain:
        return Decision((), tuple(staying), missing=missing)
    fresh = _Ledger(there, ledger.shares)
    going = tuple(unit.going(fresh.take(unit)) for unit in chosen)
    return Decision(going, tuple(staying), ledger.freed, missing)


@dataclass(frozen=True)
class _Unit:
    """Snapshots of a model that go together or not at all."""

    candidate: Candidate
    revisions: tuple[Revision, ...]
    rule: Rule
    why: str
    is_used: bool = False
    """Whether it is of use, and so goes only after all that nothing needs."""
    worth: int = 0
    """Beside others of its priority: what is worth least goes first."""

    @property
    def order(self) -> tuple[int, int, int, float, str]:
        """What goes first comes first."""
        by_priority = self.rule in (Rule.LOWER_PRIORITY_FETCH, Rule.LOWER_PRIORITY)
        priority = self.candidate.priority if by_priority else 0
        used = max(revision.used_at for revision in self.revisions)
        place = _RULES.index(Rule.LOWER_PRIORITY if self.is_used or by_priority else self.rule)
        return 2 * place - self.is_used, priority, self.worth, used, self.candidate.model

    def going(self, frees: Amount) -> Going:
        snapshots = tuple(revision.snapshot for revision in self.revisions)
        return Going(self.candidate.model, snapshots, self.rule, frees, self.why)

    def staying(self, hold: Hold) -> list[Staying]:
        end = {
            Hold.NOT_NEEDED: "it may go, and needn't",
            Hold.IN_VAIN: "it may go, and that would not be enough",
        }[hold]
        why = f"{end} ({self.why})"
        return [
            Staying(self.candidate.model, r.snapshot, hold, r.size, why) for r in self.revisions
        ]


class _Ledger:
    """What is freed when snapshots go: content goes with the last snapshot that has it."""

    def __init__(self, candidates: Iterable[Candidate], shares: frozenset[str]) -> None:
        self._holders: Counter[str] = Counter()
        self._taken: Counter[tuple[str, str]] = Counter()
        self.shares = shares
        self.freed = Amount()
        for candidate in candidates:
            for revision in candidate.revisions:
                self._holders.update(revision.blobs.keys())

    def take(self, unit: _Unit) -> Amount:
        """What its going frees, beside what goes already."""
        before = self.freed
        for revision in unit.revisions:
            key = (unit.candidate.model, revision.snapshot)
            self._taken[key] += 1
            if self._taken[key] == 1:
                self._change(revision, -1)
        return self.freed - before

    def put_back(self, unit: _Unit) -> None:
        """It stays after all, unless it goes with another unit too."""
        for revision in unit.revisions:
            key = (unit.candidate.model, revision.snapshot)
            self._taken[key] -= 1
            if not self._taken[key]:
                self._change(revision, 1)

    def _change(self, revision: Revision, change: int) -> None:
        for digest, size in revision.blobs.items():
            before = self._holders[digest]
            self._holders[digest] += change
            if digest not in self.shares and 0 in (before, self._holders[digest]):
                self.freed += Amount(-change * size, -change)


_RULES = [*Rule]


_WHOLE: Final = 3
"""What a whole model is worth, beside what fetches have brought so far."""


def _left_unit(left: Leftover, occasion: Occasion) -> tuple[_Unit, Leftover]:
    """A leftover as what else goes: of a model of its own, in a way."""
    revision = Revision(left.name, left.content, used_at=left.at)
    wish = left.wish
    if wish is None or not isinstance(occasion, Room):
        candidate = Candidate(left.model, (revision,))
        return _Unit(candidate, (revision,), left.rule, left.why, left.is_used), left
    candidate = Candidate(left.model, (revision,), priority=wish.priority, pinned=wish.pinned)
    what = "being fetched" if left.is_fetched else "unfinished"
    why = f"{what}, priority {wish.priority}, lower than {occasion.priority}"
    # A fetch is stopped before anything of it goes: it may not have to.
    worth = 0 if not left.is_fetched else 1 if left.is_promise else 2
    unit = _Unit(candidate, (revision,), Rule.LOWER_PRIORITY_FETCH, why, worth=worth)
    return unit, left


def _is_part(left: Leftover, model: str) -> bool:
    """Whether a fetch of a model goes on with it."""
    return model == left.model or model in left.wanted_by


def _left_hold(
    unit: _Unit, left: Leftover, uses: Uses, occasion: Occasion
) -> tuple[Hold, str] | None:
    if left.held is not None:
        held = _wished(left.held, left.wish, occasion)
        if held is not None:
            return held
    elif left.is_used and not isinstance(occasion, Room):
        return Hold.WANTED, "what is still good of it is not to be fetched again"
    return _used(unit.candidate, unit.revisions, uses) if left.shown else None


def _wished(
    held: tuple[Hold, str], wish: Wish | None, occasion: Occasion
) -> tuple[Hold, str] | None:
    """What keeps what a fetch goes on with; None: what comes is more important."""
    if wish is None or not isinstance(occasion, Room):
        return held
    if wish.pinned:
        return Hold.PINNED, f"{held[1]}, and its object is pinned"
    if wish.priority >= occasion.priority:
        why = f"its priority {wish.priority} is not lower than {occasion.priority}"
        return Hold.PRIORITY, f"{held[1]}, and {why}"
    return None


def _chosen(units: Sequence[_Unit], ledger: _Ledger, need: Amount) -> list[_Unit]:
    """As many of them as are needed, in their order, less those without which it is enough."""
    chosen: list[_Unit] = []
    for unit in units:
        if not ledger.freed.lacks(need):
            break
        ledger.take(unit)
        chosen.append(unit)
    if ledger.freed.lacks(need):
        return chosen
    # What is worth most is spared first.
    for unit in reversed(chosen[:]):
        ledger.put_back(unit)
        if ledger.freed.lacks(need):
            ledger.take(unit)
        else:
            chosen.remove(unit)
    return chosen


def _sorted(
    candidates: Iterable[Candidate],
    uses: Uses,
    occasion: Occasion,
    now: float,
    grace: float | None,
) -> tuple[list[_Unit], list[Staying]]:
    """What may go, in the order in which it does; and what may not."""
    units: list[_Unit] = []
    staying: list[Staying] = []
    for candidate in candidates:
        if not candidate.wanted:
            held = _unwanted_hold(candidate, now, grace)
            for revision in candidate.revisions:
                since = moment(candidate.unwanted_since or now)
                unit = _Unit(candidate, (revision,), Rule.UNWANTED, f"unwanted since {since}")
                _sort(unit, held or _used(candidate, (revision,), uses), units, staying)
            continue
        for revision in candidate.revisions:
            if _is_old(candidate, revision, occasion):
                unit = _Unit(candidate, (revision,), Rule.OLD_REVISION, "an old revision")
                kept = (Hold.WANTED, "an old revision, kept for going back to")
                held = kept if isinstance(occasion, GraceOver) else None
                _sort(unit, held or _used(candidate, (revision,), uses), units, staying)
            else:
                unit = _Unit(candidate, (revision,), Rule.LOWER_PRIORITY, "")
                held = _wanted_hold(candidate, occasion)
                if held is None:
                    assert isinstance(occasion, Room)
                    # As a whole: no old revision is to be shown in its place.
                    why = f"priority {candidate.priority}, lower than {occasion.priority}"
                    every = candidate.revisions
                    unit = _Unit(candidate, every, Rule.LOWER_PRIORITY, why, worth=_WHOLE)
                    held = _used(candidate, candidate.revisions, uses)
                if held is not None:
                    unit = _Unit(candidate, (revision,), Rule.LOWER_PRIORITY, unit.why)
                _sort(unit, held, units, staying)
    return sorted(units, key=lambda unit: unit.order), staying


def _sort(
    unit: _Unit, held: tuple[Hold, str] | None, units: list[_Unit], staying: list[Staying]
) -> None:
    if held is None:
        units.append(unit)
        return
    hold, why = held
    staying += [
        Staying(unit.candidate.model, revision.snapshot, hold, revision.size, why)
        for revision in unit.revisions
    ]


def _is_old(candidate: Candidate, revision: Revision, occasion: Occasion) -> bool:
    """Whether the model does without it. The last one is spared for who comes, not for itself."""
    if revision.role is Role.LAST:
        return isinstance(occasion, Room) and occasion.model == candidate.model
    return revision.role is Role.OLD


def _unwanted_hold(
    candidate: Candidate, now: float, grace: float | None
) -> tuple[Hold, str] | None:
    since = candidate.unwanted_since
    if since is None:
        return Hold.DOUBT, "a document of the catalog that can't be read may want it"
    if grace is None:
        return Hold.GRACE, "nothing wants it, and that is kept for ever (--delete-unwanted-after)"
    if since + grace > now:
        return Hold.GRACE, f"nothing wants it, and that is kept until {moment(since + grace)}"
    return None


def _wanted_hold(candidate: Candidate, occasion: Occasion) -> tuple[Hold, str] | None:
    if not isinstance(occasion, Room):
        return Hold.WANTED, "an object wants it"
    if candidate.model == occasion.model:
        return Hold.WANTED, "it stays until its new revision is here"
    if candidate.pinned:
        return Hold.PINNED, "its object is pinned"
    if candidate.priority >= occasion.priority:
        return (
            Hold.PRIORITY,
            f"its priority {candidate.priority} is not lower than {occasion.priority}",
        )
    return None


def _used(
    candidate: Candidate, revisions: Iterable[Revision], uses: Uses
) -> tuple[Hold, str] | None:
    for revision in revisions:
        users = uses.of(candidate.model, revision.snapshot)
        if users:
            others = f", and {len(users) - 1} more" if len(users) > 1 else ""
            return Hold.IN_USE, f"{users[0].sentence}{others}"
        if not uses.may_go(candidate.model, revision.snapshot):
            return Hold.USE_UNKNOWN, f"it may be in use: {uses.unknown}"
    return None
