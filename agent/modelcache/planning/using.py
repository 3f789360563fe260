"""Who uses which revision of which model: what is used does not go, nor what may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from modelcache.store import Shown

MARGIN_SECONDS: Final = 60.0
"""A mount is resolved some time before its container counts as started: the runtime's hooks, such
as those that bring a GPU, run in between."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who uses a model, or may.

    Attributes:
        kind: what it is.
        name: a pod's namespace and name, a process's id and command, a lease's id.
        model: what it uses; None: any may be it.
        snapshots: which of the model's snapshots; None: any of them.
        since: when it began, in seconds since the epoch; None: not known, or of no account.
            With it and without `snapshots`, it uses what was shown since then: see `mounted`.
        how: what it does, as the end of the sentence that begins with its name.
    """

    kind: Literal["pod", "process", "lease"]
    name: str
    model: str | None
    snapshots: frozenset[str] | None = None
    since: float | None = None
    how: str = "uses it"

    @property
    def sentence(self) -> str:
        """Who it is and what it does."""
        return f"{self.kind} {self.name} {self.how}"

    def uses(self, model: str, snapshot: str | None = None) -> bool:
        """Whether it uses, or may use, this snapshot, or any of the model's."""
        if self.model not in (None, model):
            return False
        return snapshot is None or self.snapshots is None or snapshot in self.snapshots


@dataclass(frozen=True, slots=True)
class Uses:
    """All who use something.

    Attributes:
        users: those that are known.
        unknown: why there may be others, in one sentence; None: there are none.
    """

    users: tuple[User, ...] = ()
    unknown: str | None = None

    def of(self, model: str, snapshot: str | None = None) -> tuple[User, ...]:
        """Who uses, or may use, a snapshot of a model, or any of the model's."""
        return tuple(user for user in self.users if user.uses(model, snapshot))

    def may_go(self, model: str, snapshot: str | None = None) -> bool:
        """Whether nobody uses it, for certain."""
        return self.unknown is None and not self.of(model, snapshot)

    def __or__(self, other: Uses) -> Uses:
        """Both together; what one of them doesn't know is not known."""
        unknown = list(dict.fromkeys(each for each in (self.unknown, other.unknown) if each))
        users = tuple(dict.fromkeys((*self.users, *other.users)))
        return Uses(users, "; ".join(unknown) or None)


def mounted(since: float, shown: Sequence[Shown]) -> frozenset[str] | None:
    """The snapshots that who began at `since` may have come to by a model's `current`.

    Those that it led to at any time since then. What is out of order tells of a clock that was set
    back: what was shown from there on counts, whatever its time.

    Args:
        since: seconds since the epoch.
        shown: what was shown, one after the other, the last being shown now.

    Returns:
        None: any; what was shown at that time is not known.
    """
    cutoff = since - MARGIN_SECONDS
    later = (i for i, each in enumerate(shown) if each.at > cutoff)
    first = next(later, len(shown)) - 1
    if first < 0:
        return None
    turns = (i for i in range(len(shown) - 1) if shown[i + 1].at < shown[i].at)
    begin = min(first, next(turns, first))
    return frozenset(each.snapshot for each in shown[begin:]) - {""}


def narrowed(uses: Uses, shown: Callable[[str], Sequence[Shown]], now: float) -> Uses:
    """Uses of whatever was shown since somebody began, as uses of the snapshots that were.

    Who is said to begin later than now began by a clock that was set back since: that may be any.

    Args:
        uses: as they were told.
        shown: what was shown of a model: see `mounted`.
        now: seconds since the epoch.
    """
    users = []
    for user in uses.users:
        if user.model is None or user.snapshots is not None or user.since is None:
            users.append(user)
            continue
        ahead = user.since > now + MARGIN_SECONDS
        snapshots = None if ahead else mounted(user.since, shown(user.model))
        users.append(replace(user, snapshots=snapshots))
    return replace(uses, users=tuple(users))
