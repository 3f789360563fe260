"""What is on the disk and no whole model: which of it nothing wants, and may go before any model.

Partial files and files of fetches that didn't end, views of withdrawn snapshots, what went bad.
Where it can't be told what a wanted model needs, all that was brought for it stays: from all but a
model that is more important.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from modelcache.planning.candidates import Wish
from modelcache.planning.moments import moment
from modelcache.planning.rules import Hold, Rule
from modelcache.store import Kind, Remnant

YOUNG_SECONDS: Final = 600.0
"""Who brought something may come back for it: a command that was stopped, an object that is
written anew."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What objects ask for, as far as it is known what that needs.

    Attributes:
        snapshots: of each wanted model the snapshot that it is to have; None: it isn't known yet.
        keys: the partial files that fetches go on with, by model.
        digests: blobs that are here and that fetches count on, by model.
        fetching: the models that are being fetched, by any process.
        in_doubt: why a model may be wanted that no object is known to want, as a sentence; empty:
            it isn't.
        wishes: what objects ask for, by model. Without its own, nothing of a model makes room.
        promised: of the fetches that can be stopped, by model, the bytes that they were promised
            and have not taken yet.
    """

    snapshots: Mapping[str, str | None] = field(default_factory=dict)
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    digests: Mapping[str, frozenset[str]] = field(default_factory=dict)
    fetching: frozenset[str] = frozenset()
    in_doubt: Callable[[str], str] = lambda _: ""
    wishes: Mapping[str, Wish] = field(default_factory=dict)
    promised: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A remnant, or what a fetch was promised, and what is to be said of it.

    Attributes:
        model: for which it was brought; of several one that is being fetched.
        name: of the remnant; of a promise `fetch/<model>`.
        rule: by which it goes.
        why: it may go, as a sentence.
        content: bytes on the disk by what they are; see `Remnant.content`.
        at: when something of it was last written, in seconds since the epoch.
        held: what keeps it, and why; None: nothing.
        is_used: whether a model is to be healed from it. It goes only for a model that comes, and
            after all that nothing needs.
        shown: whether pods may have it mounted.
        wanted_by: the models whose fetch goes on with it, or may.
        wish: of these the most important one's; that one makes room for a model that is more
            important still, and what is held so with it. None: it doesn't.
        is_fetched: whether a fetch is at work on it, which is to be stopped first.
        is_promise: whether none of it is on the disk yet.
    """

    model: str
    name: str
    rule: Rule
    why: str
    content: Mapping[str, int] = field(default_factory=dict)
    at: float = 0.0
    held: tuple[Hold, str] | None = None
    is_used: bool = False
    shown: bool = False
    wanted_by: frozenset[str] = frozenset()
    wish: Wish | None = None
    is_fetched: bool = False
    is_promise: bool = False


def leftovers(remnants: Iterable[Remnant], asked: Asked, now: float) -> tuple[Leftover, ...]:
    """Judge what is on the disk beside the models, at a moment in seconds since the epoch."""
    judged = (_judged(remnant, asked, now) for remnant in remnants)
    return (*judged, *_promises(asked, now))


def _judged(remnant: Remnant, asked: Asked, now: float) -> Leftover:
    at_work = asked.fetching & remnant.models
    bad = remnant.kind is Kind.QUARANTINED
    wanted = any(name in asked.snapshots or asked.in_doubt(name) for name in remnant.models)
    wanting = {} if bad else _wanting(remnant, asked)
    return Leftover(
        model=min(at_work or remnant.models, default=""),
        name=remnant.name,
        rule=Rule.QUARANTINE if bad else Rule.LEFTOVER,
        why=f"it went bad, and is kept aside since {moment(remnant.changed_at)}"
        if bad
        else f"left of a fetch that nothing wants, since {moment(remnant.changed_at)}",
        content=remnant.content,
        at=remnant.changed_at,
        held=_hold(remnant, wanting, asked, now),
        is_used=bad and wanted and not remnant.healed,
        shown=remnant.kind is Kind.UNFINISHED,
        wanted_by=frozenset(wanting),
        wish=_wish(remnant, wanting, asked),
        is_fetched=bool(at_work),
    )


def _promises(asked: Asked, now: float) -> Iterator[Leftover]:
    """What the fetches under way have not taken yet, and give back when they are stopped."""
    for name, size in sorted(asked.promised.items()):
        wish = asked.wishes.get(name)
        if wish is not None and size > 0:
            key = f"fetch/{name}"
            yield Leftover(
                name,
                key,
                Rule.LOWER_PRIORITY_FETCH,
                "",
                {key: size},
                now,
                held=(Hold.FETCHING, "it is being fetched"),
                wanted_by=frozenset({name}),
                wish=wish,
                is_fetched=True,
                is_promise=True,
            )


def _hold(
    remnant: Remnant, wanting: Mapping[str, str], asked: Asked, now: float
) -> tuple[Hold, str] | None:
    if not asked.fetching.isdisjoint(remnant.models):
        return Hold.FETCHING, "it is being fetched"
    if remnant.kind is Kind.QUARANTINED:
        return None
    if not remnant.models:
        return Hold.DOUBT, "it is not known for what it was fetched"
    doubts = _doubts(remnant, asked)
    if doubts:
        return Hold.DOUBT, doubts[0]
    if wanting:
        return Hold.WANTED, wanting[min(wanting)]
    # What is ahead of the clock, which was set back since, is as old as it is ahead.
    if abs(now - remnant.changed_at) < YOUNG_SECONDS:
        until = moment(remnant.changed_at + YOUNG_SECONDS)
        return Hold.GRACE, f"who fetched it may come back for it until {until}"
    return None


def _doubts(remnant: Remnant, asked: Asked) -> list[str]:
    """Why models may want it that no object is known to want."""
    unknown = sorted(remnant.models - asked.snapshots.keys())
    return [doubt for doubt in map(asked.in_doubt, unknown) if doubt]


def _wanting(remnant: Remnant, asked: Asked) -> dict[str, str]:
    """The models whose fetch goes on with it, or may, and why that is said, as a sentence."""
    found: dict[str, str] = {}
    for name, digests in asked.digests.items():
        if not digests.isdisjoint(remnant.content):
            found[name] = "what is to be fetched has some of its files"
    for name, keys in asked.keys.items():
        if remnant.kind is Kind.PARTIAL and remnant.key in keys:
            found[name] = "its next fetch goes on with it"
    for name in remnant.models & asked.snapshots.keys():
        if asked.snapshots[name] is None:
            found[name] = "its next fetch may go on with it"
        elif asked.snapshots[name] == remnant.name:
            found[name] = "its next fetch goes on with it"
    return found


def _wish(remnant: Remnant, wanting: Mapping[str, str], asked: Asked) -> Wish | None:
    """What the most important model that wants it asks for; None: it is held by more than that."""
    at_work = asked.fetching & remnant.models
    if not wanting or _doubts(remnant, asked) or not remnant.models:
        return None
    if not at_work <= asked.promised.keys() or not wanting.keys() <= asked.wishes.keys():
        return None
    return max((asked.wishes[name] for name in wanting), key=lambda w: (w.pinned, w.priority))
