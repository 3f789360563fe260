"""The store that settings mean, with its limits."""

from __future__ import annotations

from modelcache.settings import StoreSettings
from modelcache.store import Capacity, KeepFree, Store


def store_of(found: StoreSettings, *, looking: bool = False) -> Store:
    """The store at the root, made if there is none. `looking`: see `Store`.

    Raises:
        StoreDamaged: the root can't be used.
    """
    limit = found.capacity_parts
    return Store(
        found.root,
        keep_free=KeepFree(*found.keep_free_parts),
        capacity=None if limit is None else Capacity(*limit),
        looking=looking,
    )
