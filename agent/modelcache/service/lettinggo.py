"""Removing what was decided to go: by the agent, and by `modelcache gc`."""

from __future__ import annotations

from modelcache.planning.evicting import Going, Rule
from modelcache.planning.using import Uses
from modelcache.store import Store


def evict(store: Store, going: Going) -> int:
    """Remove it; bytes that were freed.

    Raises:
        OSError
    """
    if not going.is_model:
        return sum(store.remnants.remove(going.model, name) for name in going.snapshots)
    if going.whole:
        return store.evict(going.model)
    freed = sum(store.evict(going.model, snapshot) for snapshot in going.snapshots)
    if going.rule is Rule.UNWANTED and not store.snapshots(going.model):
        freed += store.evict(going.model)  # what unfinished fetches left of it
    return freed


def may_go(uses: Uses, going: Going) -> bool:
    """Whether nobody uses what is to go. Nobody can use what was never shown.

    With a whole model all of its revisions go, also one that was to go for another reason.
    """
    if going.whole:
        return uses.may_go(going.model)
    shown = [name for name in going.snapshots if "/" not in name]
    return all(uses.may_go(going.model, name) for name in shown)
