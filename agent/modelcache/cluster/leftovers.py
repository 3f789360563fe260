"""What nobody needs any more and nobody else takes away: permits of holders that are gone, and
NodeCaches without a Node. Nothing is judged by comparing clocks, nor by one look alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from modelcache.cluster.client import Object

GRACE_SECONDS: Final = 600.0
"""For which something must have looked left over before it goes."""


class Leftovers:
    """Remembers since when things look left over. For one thread; not shared between processes:
    who takes over waits anew."""

    def __init__(self, clock: Callable[[], float], grace: float = GRACE_SECONDS) -> None:
        """`clock` is a monotonic one; `grace` in seconds."""
        self._clock = clock
        self._grace = grace
        self._since: dict[tuple[str, str], float] = {}

    def permits(self, leases: Iterable[Object]) -> list[Object]:
        """The Leases that were not renewed for as long as they last and the grace on top.

        A lease that is renewed, or taken over, changes its resource version. `leases` are all that
        there are with the permits' label.
        """
        found = {}
        for lease in leases:
            metadata = lease["metadata"]
            lasts = float((lease.get("spec") or {}).get("leaseDurationSeconds") or 0)
            found[f"{metadata['uid']} {metadata['resourceVersion']}"] = (lasts, lease)
        old = self._old("lease", {key: lasts for key, (lasts, _) in found.items()})
        return [found[key][1] for key in old]

    def node_caches(self, caches: Iterable[Object], nodes: Mapping[str, Object]) -> list[Object]:
        """The NodeCaches (as `keep_reports` leaves them) whose Node is gone and that have no owner:
        those with one are the garbage collector's. Without any Node nothing is concluded."""
        orphans = {
            cache["uid"]: cache
            for cache in caches
            if nodes and cache["name"] not in nodes and not cache["owned"]
        }
        return [orphans[uid] for uid in self._old("cache", dict.fromkeys(orphans, 0.0))]

    def _old(self, kind: str, present: Mapping[str, float]) -> list[str]:
        """Those of the present that were present for the grace and so much more."""
        now = self._clock()
        for known in [key for key in self._since if key[0] == kind and key[1] not in present]:
            del self._since[known]
        return [
            key
            for key, more in present.items()
            if now - self._since.setdefault((kind, key), now) >= self._grace + more
        ]
