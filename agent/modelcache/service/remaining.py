"""What takes room beside whole models, judged by what the reconciler knows."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

from modelcache.api import CachedModel
from modelcache.planning.leftovers import Asked, Leftover, leftovers
from modelcache.planning.planner import present
from modelcache.planning.sources import source_digest
from modelcache.planning.trials import Trial
from modelcache.service.inventory import Snapshots
from modelcache.service.working import Found
from modelcache.store import Store, blob_key


def remaining(
    store: Store,
    wanted: Mapping[str, CachedModel],
    inventory: Mapping[str, Snapshots],
    trials: Mapping[str, Trial],
    found: Mapping[str, Found],
    running: Container[str],
    in_doubt: Callable[[str], bool],
    now: float,
) -> tuple[Leftover, ...]:
    """Look what there is.

    Args:
        store: where.
        wanted: the objects that are for this node, by name.
        inventory: the models that are here.
        trials: what is remembered of tries.
        found: what origins hold of the models that are to be fetched.
        running: the models for which something runs.
        in_doubt: whether a model may be wanted, by what can't be read.
        now: seconds since the epoch.
    """
    snapshots: dict[str, str | None] = {}
    keys: set[str] = set()
    digests: set[str] = set()
    for name, model in wanted.items():
        what = found.get(name)
        if what is None:
            snapshots[name] = _settled(model, inventory.get(name, []), trials.get(name))
            continue
        revision = what.revision
        snapshots[name] = revision.snapshot
        files = (*revision.files, *(archive.blob for archive in revision.archives))
        keys |= {blob_key(file.identity, file.sha256) for file in files}
        digests |= what.missing.shares
    remnants = store.remnants.all()
    names = {name for remnant in remnants for name in remnant.models}
    fetching = store.space.promised() | {name for name in names if name in running}
    asked = Asked(snapshots, frozenset(keys), frozenset(digests), fetching, in_doubt)
    return leftovers(remnants, asked, now)


def _settled(model: CachedModel, held: Snapshots, trial: Trial | None) -> str | None:
    """The snapshot of a model that needs nothing more; None: what it needs isn't known."""
    here = present(source_digest(model.spec.source), [each for each, _ in held], trial)
    if here is None or trial is None or trial.snapshot != here.snapshot or trial.failures:
        return None
    return here.snapshot
