"""What takes room beside whole models, judged by what the reconciler knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelcache.api import CachedModel
from modelcache.planning.candidates import Wish
from modelcache.planning.leftovers import Asked, Leftover, leftovers
from modelcache.planning.planner import present
from modelcache.planning.sources import source_digest
from modelcache.planning.trials import Trial
from modelcache.service.inventory import Snapshots
from modelcache.service.working import Found
from modelcache.store import Store, blob_key


@dataclass(frozen=True, slots=True)
class Needed:
    """What is known of what objects need.

    Attributes:
        wanted: the objects that are for this node, by name.
        inventory: the models that are here.
        trials: what is remembered of tries.
        found: what origins hold of the models that are to be fetched.
        fetching: the models whose fetch runs here, and the bytes that it was promised and has not
            taken yet.
    """

    wanted: Mapping[str, CachedModel]
    inventory: Mapping[str, Snapshots]
    trials: Mapping[str, Trial]
    found: Mapping[str, Found]
    fetching: Mapping[str, int]


def remaining(
    store: Store, needed: Needed, unreadable: Callable[[str], bool], now: float
) -> tuple[Leftover, ...]:
    """Look what there is, at a moment in seconds since the epoch.

    `unreadable` tells whether a model may be wanted by what can't be read.
    """
    others = ", ".join(store.companions.others())

    def in_doubt(name: str) -> str:
        if others:
            return f"another agent is at work on this root, and may want it: {others}"
        return "a document of the catalog that can't be read may want it" * unreadable(name)

    snapshots: dict[str, str | None] = {}
    keys: dict[str, frozenset[str]] = {}
    digests: dict[str, frozenset[str]] = {}
    for name, model in needed.wanted.items():
        what = needed.found.get(name)
        if what is None:
            held, trial = needed.inventory.get(name, []), needed.trials.get(name)
            snapshots[name] = _settled(model, held, trial)
            continue
        revision = what.revision
        snapshots[name] = revision.snapshot
        files = (*revision.files, *(archive.blob for archive in revision.archives))
        keys[name] = frozenset(blob_key(file.identity, file.sha256) for file in files)
        digests[name] = what.missing.shares
    asked = Asked(
        snapshots,
        keys,
        digests,
        store.space.promised() | needed.fetching.keys(),
        in_doubt,
        {name: Wish.of(model) for name, model in needed.wanted.items()},
        needed.fetching,
    )
    return leftovers(store.remnants.all(), asked, now)


def _settled(model: CachedModel, held: Snapshots, trial: Trial | None) -> str | None:
    """The snapshot of a model that needs nothing more; None: what it needs isn't known."""
    here = present(source_digest(model.spec.source), [each for each, _ in held], trial)
    if here is None or trial is None or trial.snapshot != here.snapshot or trial.failures:
        return None
    return here.snapshot
