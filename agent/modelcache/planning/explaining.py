"""Why a model is here or isn't, and what would have to happen: sentences, from what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from modelcache.api import ModelReport, ModelState
from modelcache.api.nodecache import CompileReport, CompileState
from modelcache.errors import Reason
from modelcache.planning import wording
from modelcache.planning.evicting import Decision, Hold, Staying, moment
from modelcache.planning.using import Uses
from modelcache.store import DiskSpace, human_size

_HOLDS = (Hold.IN_USE, Hold.USE_UNKNOWN, Hold.GRACE, Hold.DOUBT, Hold.PINNED, Hold.PRIORITY)
_INODES = " inodes, and "
"""Of a refusal: reports have no number of the files of a model that never came."""
_MOVING = (ModelState.DOWNLOADING, ModelState.VERIFYING)
_HELP = {
    Hold.IN_USE: "let go of what is in use",
    Hold.USE_UNKNOWN: "see why it can't be told who uses what",
    Hold.GRACE: "wait until what nothing wants has had its time",
    Hold.DOUBT: "mend the catalog's broken documents",
    Hold.PINNED: "unpin a model",
    Hold.PRIORITY: "give it a higher priority",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a model is here or isn't.

    Attributes:
        verdict: in one sentence.
        facts: what that rests on: (what it is about, a sentence) each.
        holders: what holds the room that is missing for it, the largest first.
        remedies: what would change it, any of them.
    """

    verdict: str
    facts: tuple[tuple[str, str], ...] = ()
    holders: tuple[Staying, ...] = ()
    remedies: tuple[str, ...] = field(default=())


def explain(
    report: ModelReport,
    uses: Uses,
    space: DiskSpace,
    room: Decision | None,
    *,
    grace: float | None,
    now: float,
    own_limits: str = "",
    placement: str | None = None,
    compiled: Sequence[CompileReport] = (),
) -> Explanation:
    """Explain one model.

    Args:
        report: what is known of it.
        uses: who uses what.
        space: the disk.
        room: what would go for it, where it is not here and its size is known.
        grace: seconds for which content is kept that nothing wants; None: for ever.
        now: seconds since the epoch.
        own_limits: by whose limits `space` is, where those are not the agent's, as the end of a
            sentence.
        placement: what the catalog says of it and this node, where it was read.
        compiled: the compile caches that are of it.
    """
    facts = [("wanted", _wanted(report))]
    if placement is not None:
        facts.append(("placed", placement))
    holders = _holders(room)
    facts.append(("state", _state(report, now, is_told=bool(holders))))
    first = {each.message: each.name for each in reversed(compiled)}
    of_it = [("compiled", _compiled(each, first[each.message])) for each in compiled]
    if report.state is ModelState.READY:
        facts += [("used", _used(report, uses)), ("stays", _stays(report, uses, grace)), *of_it]
        failing = wording.stage(report) is wording.Stage.UPDATE_FAILING
        update = "; its update is failing" if failing else ""
        remedies = (_for_update(report),) if failing else ()
        verdict = f"{report.name} is here, and shown{update}."
        return Explanation(verdict, tuple(facts), remedies=remedies)
    facts += [("room", _room(report, space) + own_limits), *of_it]
    return Explanation(
        _absent(report), tuple(facts), holders, _remedies(report, space, room, own_limits)
    )


def _wanted(report: ModelReport) -> str:
    if not report.wanted:
        known = report.unwanted_since
        since = f" since {moment(known.timestamp())}" if known else ""
        return f"no: nothing that the agent read asks for it on this node{since}"
    pinned = ", pinned" if report.pinned else ""
    source = f", from {report.source}" if report.source else ""
    return f"yes, with priority {report.priority}{pinned}{source}"


def without_holders(message: str) -> str:
    """Why a model doesn't fit, without who holds the room: that is a list of its own."""
    return message.partition("; ")[0]


def _state(report: ModelReport, now: float, *, is_told: bool) -> str:
    """`is_told`: what holds the room that is missing is told elsewhere."""
    told = wording.state(report)
    if report.state in _MOVING and report.bytes_total:
        told += f", {human_size(report.bytes_done)} of {human_size(report.bytes_total)} are here"
    if report.reason:
        told += f" ({report.reason.value})"
    if report.message:
        told += f": {without_holders(report.message) if is_told else report.message}"
    next_try = wording.next_try(report, datetime.fromtimestamp(now, UTC))
    tried = ", ".join(part for part in (wording.tries(report), next_try) if part)
    return f"{told}; {tried}" if tried else told


def _used(report: ModelReport, uses: Uses) -> str:
    users = uses.of(report.name)
    if users:
        return "; ".join(user.sentence for user in users)
    return f"it can't be told: {uses.unknown}" if uses.unknown else "by nobody"


def _stays(report: ModelReport, uses: Uses, grace: float | None) -> str:
    if report.wanted:
        if report.pinned:
            return "in any case: it is pinned"
        return f"unless something of a priority above {report.priority} needs its room"
    if not uses.may_go(report.name):
        return "as long as it is in use, or may be"
    if grace is None:
        return "for ever: --delete-unwanted-after is never"
    if report.unwanted_since is None:
        return "until it has been unwanted for long enough"
    return f"until {moment(report.unwanted_since.timestamp() + grace)}, or longer"


def _room(report: ModelReport, space: DiskSpace) -> str:
    left = max(0, space.budget - space.used - space.reserved)
    told = (
        f"the cache takes {human_size(space.used)} of the {human_size(space.budget)} that it may,"
        f" and {human_size(left)} are left"
    )
    if space.reserved:
        told += f" ({human_size(space.reserved)} are promised to fetches under way)"
    if report.bytes_total:
        needed = max(0, report.bytes_total - report.bytes_done)
        ever = ", more than the cache may take in all" if report.bytes_total > space.budget else ""
        told = f"it needs {human_size(needed)} at most{ever}; {told}"
    return told


def _compiled(report: CompileReport, first: str) -> str:
    """`first`: the compile cache of which the same is said, and before."""
    told = f"{report.name}: {report.state.value}"
    if report.reason:
        told += f" ({report.reason.value})"
    if report.message:
        told += f": {report.message}" if first == report.name else f": as {first}"
    elif report.state is CompileState.READY:
        told += ": the next pod here starts from it"
    if report.attempts and report.retry_at:
        told += f"; the next try is at {moment(report.retry_at.timestamp())}"
    if report.last_start is not None:
        start = report.last_start
        why = f" ({start.message or start.reason})" if start.message or start.reason else ""
        told += f"; the last start, {moment(start.at.timestamp())}: {start.result}{why}"
    return told


def _absent(report: ModelReport) -> str:
    name, state = report.name, report.state
    if not report.wanted:
        return f"{name} is not here, and nothing wants it here."
    if state is ModelState.EVICTED:
        return f"{name} is leaving: it {report.message or 'makes room for others'}."
    if report.reason is Reason.INSUFFICIENT_DISK:
        return f"{name} is not here: there is not enough room for it."
    if state is ModelState.FAILED:
        return f"{name} is not here: it could not be fetched."
    if state in (ModelState.DOWNLOADING, ModelState.VERIFYING):
        return f"{name} is on its way."
    return f"{name} is not here yet."


def _holders(room: Decision | None) -> tuple[Staying, ...]:
    if room is None or not room.missing:
        return ()
    held = [each for each in room.staying if each.hold in _HOLDS]
    return tuple(sorted(held, key=lambda each: (-each.size, each.model, each.snapshot)))


def _remedies(
    report: ModelReport, space: DiskSpace, room: Decision | None, own_limits: str
) -> tuple[str, ...]:
    if not report.wanted:
        return ("apply a CachedModel that selects this node, or modelcache prefetch it",)
    if room is not None and room.missing:
        return _for_room(report, space, room)
    if room is not None and room.going:
        gone = ", ".join(dict.fromkeys(going.model for going in room.going))
        return (f"nothing: {gone} makes room when it is tried again",)
    if report.reason is Reason.INSUFFICIENT_DISK and _INODES in (report.message or ""):
        return ("free inodes: fewer files on this disk, or a file system with more of them",)
    if report.reason is Reason.INSUFFICIENT_DISK and report.bytes_total:
        if own_limits:
            return ("see that the agent runs: there is room now",)
        return ("nothing: there is room now, and it is tried again",)
    if report.reason is not None:
        return (_for_reason(report.reason),)
    return ("nothing: it is being brought",)


def _for_room(report: ModelReport, space: DiskSpace, room: Decision) -> tuple[str, ...]:
    """What would make room enough; of what others hold only where that can be enough."""
    fewer = "select fewer of its files (include, exclude), or nodes that have more room"
    if report.bytes_total > space.capacity:
        return (f"give the cache a larger disk: this one has {human_size(space.capacity)}", fewer)
    if report.bytes_total > space.budget:
        more = human_size(report.bytes_total - space.budget)
        limits = "--capacity, --keep-free, less of others on its disk"
        return (f"let the cache take {more} more at least ({limits})", fewer)
    holders = _holders(room)
    steps = [_HELP[hold] for hold in _HOLDS if any(each.hold is hold for each in holders)]
    lacks = human_size(room.missing.bytes)
    if room.missing.bytes <= sum(each.size for each in holders):
        steps.append(f"free {lacks}, or let the cache take so much more (--capacity, --keep-free)")
    else:
        steps.append(f"let the cache take {lacks} more (--capacity, --keep-free)")
    return tuple(steps)


def _for_update(report: ModelReport) -> str:
    if report.reason is Reason.INSUFFICIENT_DISK:
        return "free what holds the room, or let the cache take more (--capacity, --keep-free)"
    return _for_reason(report.reason)


def _for_reason(reason: Reason | None) -> str:
    if reason in (Reason.AUTH_FAILED, Reason.NOT_FOUND):
        return "mend its source or its credentials; it is tried again by itself"
    return "nothing, or what the reason says; it is tried again by itself"
