"""What is of no use on this node any more, and since when."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from modelcache.catalog import Catalog
from modelcache.planning.compilechoosing import HeldBundle, Need, idle
from modelcache.planning.removing import Removal
from modelcache.service.compilecache.bundles import Known
from modelcache.service.compilecache.telling import is_doubtful
from modelcache.service.unwanted import Keeping


class Unwanted:
    """Remembers it from round to round. For one thread."""

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping
        self._idle_since: dict[tuple[str, str], float] = {}
        self._since: dict[str, float] = {}

    def idle(
        self, needs: Mapping[str, Need], held: Mapping[str, list[HeldBundle]], now: float
    ) -> Mapping[tuple[str, str], float]:
        """Since when each bundle is of no use, by object and digest."""
        useless = {
            (name, digest)
            for name, need in needs.items()
            for digest in idle(need, held.get(name, ()))
        }
        self._idle_since = {each: self._idle_since.get(each, now) for each in useless}
        return self._idle_since

    def removal(
        self,
        catalog: Catalog,
        needed: Container[str],
        held: Iterable[str],
        kept: Container[str] | None,
        now: float,
    ) -> Removal | None:
        """When objects' bundles go that nothing asks for; None: nothing goes now.

        Args:
            catalog: in force.
            needed: objects that select this node.
            held: objects that have bundles here.
            kept: what may not go now; None: that is not known.
            now: seconds since the epoch.
        """
        after = self._keeping.seconds
        if after is None or not self._is_believed(catalog):
            self._since.clear()
            return None
        self._since = {
            name: self._since.get(name, now)
            for name in held
            if name not in needed and not is_doubtful(catalog, name)
        }
        return Removal(after, self._since, kept) if kept is not None else None

    def orphans(
        self, catalog: Catalog, asked: Container[str], known: Mapping[str, tuple[Known, ...]]
    ) -> list[str]:
        """Objects that are gone, whose bundle is still shown and nobody vouches for any more: it
        was pinned, or its key is not trusted now. Pods may have been made for them."""
        if not self._is_believed(catalog):
            return []
        return [
            name
            for name, mine in known.items()
            if name not in asked
            and any(each.bundle.shown and not each.bundle.usable for each in mine)
            and not is_doubtful(catalog, name)
        ]

    def _is_believed(self, catalog: Catalog) -> bool:
        return bool(catalog.models or catalog.compile_caches) or self._keeping.also_when_empty
