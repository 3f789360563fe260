"""What is known of the objects of one kind: changed by one thread, looked at by all."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from modelcache.cluster.resources import Object

_MOST_DELETED: Final = 1000


class Known:
    """Objects by their keys. The changing methods are for one thread, the others for any."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._things: dict[str, Object] = {}
        self._snapshot: Mapping[str, Object] | None = None
        self._deleted: dict[str, float] = {}

    @property
    def objects(self) -> Mapping[str, Object]:
        """All of them. Never changes, and stays the same as long as they do."""
        with self._mutex:
            # Copied when somebody looks, not with each event of many in a row.
            if self._snapshot is None:
                self._snapshot = MappingProxyType(dict(self._things))
            return self._snapshot

    @property
    def deleted(self) -> Mapping[str, float]:
        """The latest thousand that were dropped and have not come back, each with the moment."""
        with self._mutex:
            return dict(self._deleted)

    def get(self, key: str) -> Object | None:
        """One of them."""
        return self._things.get(key)

    def replace(self, things: Mapping[str, Object]) -> bool:
        """Know these and no others; whether that is another state. What is equal stays the same."""
        before = self._things
        found = {
            key: before[key] if before.get(key) == thing else thing for key, thing in things.items()
        }
        same = found.keys() == before.keys()
        same = same and all(thing is before[key] for key, thing in found.items())
        with self._mutex:
            for key in found.keys() & self._deleted.keys():
                del self._deleted[key]
            if not same:
                self._things, self._snapshot = found, None
        return not same

    def put(self, key: str, thing: Object) -> bool:
        """Know an object; whether that is news."""
        with self._mutex:
            self._deleted.pop(key, None)
            if self._things.get(key) == thing:
                return False
            self._things[key] = thing
            self._snapshot = None
        return True

    def drop(self, key: str, now: float) -> bool:
        """Know that one was deleted; whether it was known before."""
        with self._mutex:
            self._deleted.pop(key, None)
            self._deleted[key] = now
            while len(self._deleted) > _MOST_DELETED:
                del self._deleted[next(iter(self._deleted))]
            if self._things.pop(key, None) is None:
                return False
            self._snapshot = None
        return True
