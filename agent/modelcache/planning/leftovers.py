"""What is on the disk and no whole model: which of it nothing wants, and may go before any model.

Partial files and files of fetches that didn't end, views of withdrawn snapshots, what went bad.
Where it can't be told what a wanted model needs, all that was brought for it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

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
        keys: the partial files that go on being fetched.
        digests: blobs that are here and that a fetch counts on.
        fetching: the models that are being fetched, by any process.
        in_doubt: why a model may be wanted that no object is known to want, as a sentence; empty:
            it isn't.
    """

    snapshots: Mapping[str, str | None] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    digests: frozenset[str] = frozenset()
    fetching: frozenset[str] = frozenset()
    in_doubt: Callable[[str], str] = lambda _: ""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A remnant, and what is to be said of it.

    Attributes:
        model: for which it was brought.
        name: of the remnant.
        rule: by which it goes.
        why: it may go, as a sentence.
        content: bytes on the disk by what they are; see `Remnant.content`.
        at: when something of it was last written, in seconds since the epoch.
        held: what keeps it, and why; None: nothing.
        is_used: whether a model is to be healed from it. It goes only for a model that comes, and
            after all that nothing needs.
        shown: whether pods may have it mounted.
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


def leftovers(remnants: Iterable[Remnant], asked: Asked, now: float) -> tuple[Leftover, ...]:
    """Judge what is on the disk beside the models, at a moment in seconds since the epoch."""
    return tuple(_judged(remnant, asked, now) for remnant in remnants)


def _judged(remnant: Remnant, asked: Asked, now: float) -> Leftover:
    model = min(remnant.models, default="")
    bad = remnant.kind is Kind.QUARANTINED
    wanted = any(name in asked.snapshots or asked.in_doubt(name) for name in remnant.models)
    return Leftover(
        model=model,
        name=remnant.name,
        rule=Rule.QUARANTINE if bad else Rule.LEFTOVER,
        why=f"it went bad, and is kept aside since {moment(remnant.changed_at)}"
        if bad
        else f"left of a fetch that nothing wants, since {moment(remnant.changed_at)}",
        content=remnant.content,
        at=remnant.changed_at,
        held=_hold(remnant, asked, now),
        is_used=bad and wanted and not remnant.healed,
        shown=remnant.kind is Kind.UNFINISHED,
    )


def _hold(remnant: Remnant, asked: Asked, now: float) -> tuple[Hold, str] | None:
    if not asked.fetching.isdisjoint(remnant.models):
        return Hold.FETCHING, "it is being fetched"
    if remnant.kind is Kind.QUARANTINED:
        return None
    if not remnant.models:
        return Hold.DOUBT, "it is not known for what it was fetched"
    for name in sorted(remnant.models):
        held = _hold_of(remnant, name, asked)
        if held is not None:
            return held
    if not asked.digests.isdisjoint(remnant.content):
        return Hold.WANTED, "what is to be fetched has some of its files"
    # What is ahead of the clock, which was set back since, is as old as it is ahead.
    if abs(now - remnant.changed_at) < YOUNG_SECONDS:
        until = moment(remnant.changed_at + YOUNG_SECONDS)
        return Hold.GRACE, f"who fetched it may come back for it until {until}"
    return None


def _hold_of(remnant: Remnant, name: str, asked: Asked) -> tuple[Hold, str] | None:
    if name not in asked.snapshots:
        doubt = asked.in_doubt(name)
        return (Hold.DOUBT, doubt) if doubt else None
    snapshot = asked.snapshots[name]
    if snapshot is None:
        return Hold.WANTED, "its next fetch may go on with it"
    goes_on = remnant.key in asked.keys or remnant.name == snapshot
    return (Hold.WANTED, "its next fetch goes on with it") if goes_on else None
