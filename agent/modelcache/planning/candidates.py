"""What the store holds, seen as what might go: whose it is, how much, and when it was used."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from modelcache.api import CachedModel, Manifest, ModelReport
from modelcache.planning.planner import Held, present
from modelcache.planning.sources import source_digest
from modelcache.planning.trials import Trial


class Role(Enum):
    """What a snapshot is to its model."""

    PRESENT = auto()
    """What the model is ready with."""
    LAST = auto()
    """The newest of a model of whose present source nothing is here: all there is to go back to."""
    OLD = auto()
    """Another one."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One snapshot.

    Attributes:
        snapshot: its name on the disk.
        blobs: bytes on the disk of each of its contents, by digest.
        role: what it is to its model.
        used_at: when it was last used, or came, in seconds since the epoch.
    """

    snapshot: str
    blobs: Mapping[str, int] = field(default_factory=dict)
    role: Role = Role.PRESENT
    used_at: float = 0.0

    @property
    def size(self) -> int:
        """Bytes on the disk; what it shares with others is among them."""
        return sum(self.blobs.values())


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model of which something is here.

    Attributes:
        model: its name.
        revisions: its snapshots, oldest first.
        wanted: whether an object wants it on this node.
        unwanted_since: since when none does, in seconds since the epoch; None: it is wanted, or a
            broken document may be about it.
        priority: of its object.
        pinned: whether its object is.
    """

    model: str
    revisions: tuple[Revision, ...]
    wanted: bool = True
    unwanted_since: float | None = None
    priority: int = 0
    pinned: bool = False

    def without(self, gone: Container[tuple[str, str]]) -> Candidate:
        """What is left when some (model, snapshot) are gone."""
        left = tuple(each for each in self.revisions if (self.model, each.snapshot) not in gone)
        return self if left == self.revisions else replace(self, revisions=left)


@dataclass(frozen=True, slots=True)
class Wish:
    """What an object asks for, as far as it matters for what goes."""

    source: str
    priority: int = 0
    pinned: bool = False

    @staticmethod
    def of(model: CachedModel) -> Wish:
        """Of an object."""
        spec = model.spec
        return Wish(source_digest(spec.source), spec.priority, spec.pinned)

    @staticmethod
    def told(report: ModelReport) -> Wish:
        """Of a report on an object."""
        return Wish(report.source_digest or "", report.priority, report.pinned)


def candidates(
    wishes: Mapping[str, Wish],
    inventory: Mapping[str, Sequence[tuple[Held, Manifest]]],
    trials: Mapping[str, Trial],
    unwanted: Mapping[str, float],
    *,
    last_used: Callable[[str, str], float | None] = lambda *_: None,
    block: int = 4096,
) -> tuple[Candidate, ...]:
    """Every model of which something is here.

    Args:
        wishes: what objects want on this node, by the model's name.
        inventory: the snapshots with their manifests, by model, oldest first.
        trials: what is remembered of tries, by model.
        unwanted: since when nothing wants a model, in seconds since the epoch. What is neither
            wanted nor here may be meant by a broken document.
        last_used: when a model's snapshot was last used, in seconds since the epoch; None: unknown.
        block: bytes that the file system gives out at a time.
    """
    found = []
    for name, held in sorted(inventory.items()):
        wish = wishes.get(name)
        roles = _roles(wish, [each for each, _ in held], trials.get(name))
        revisions = tuple(
            Revision(
                each.snapshot,
                {file.sha256: -(-file.size // block) * block for file in manifest.files},
                roles[each.snapshot],
                last_used(name, each.snapshot) or each.created_at,
            )
            for each, manifest in held
        )
        found.append(
            Candidate(
                name,
                revisions,
                wanted=wish is not None,
                unwanted_since=None if wish is not None else unwanted.get(name),
                priority=wish.priority if wish else 0,
                pinned=wish.pinned if wish else False,
            )
        )
    return tuple(found)


def _roles(wish: Wish | None, held: Sequence[Held], trial: Trial | None) -> Mapping[str, Role]:
    roles = {each.snapshot: Role.OLD for each in held}
    ready = present(wish.source, held, trial) if wish is not None else None
    if ready is not None:
        roles[ready.snapshot] = Role.PRESENT
    elif held:
        roles[_newest(held).snapshot] = Role.LAST
    return roles


def _newest(held: Iterable[Held]) -> Held:
    """The one that is shown, else the newest that is whole, else the newest."""
    return max(held, key=lambda each: (each.shown, each.whole, each.created_at))
