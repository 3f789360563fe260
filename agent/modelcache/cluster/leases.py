"""Leases: who of many may do something, for as long as it shows that it is alive.

Whether another's Lease has expired is judged by when *we* saw it change last, never by comparing
its times with our clock: nodes' clocks differ. That is how client-go's leader election does it. So
a Lease is taken over only after a full duration in which nobody was seen renewing it, while its
holder counts from before it asked for the renewal (`until`): no two hold it at once, as long as a
second lasts a second on both. A machine that was suspended as a whole can't know; nothing can help
there but the server's refusal when it renews.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from modelcache.cluster.client import LEASES, Client, Object
from modelcache.cluster.resources import micro_time
from modelcache.errors import ClusterError

_ANSWER_SECONDS: Final = 5.0
"""Well below what a Lease lasts: one replica of the API server that hangs loses nobody a Lease."""
_FORGET_SECONDS: Final = 900.0
_EXPIRED: Final = float("-inf")


@dataclass(slots=True)
class _Seen:
    """How a Lease looked, since when, and when it was looked at last."""

    record: tuple[Any, ...]
    since: float
    looked_at: float


@dataclass(frozen=True, slots=True)
class _Mine:
    """A Lease of ours as the server had it last, and until when it surely is."""

    lease: Object
    until: float


class Leases:
    """The Leases of one namespace, on behalf of one holder. For one thread.

    Every method that asks raises `ClusterError` where the API server gave no answer, or refused.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        holder: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`holder` is written into the Leases; nobody else may have the same at the same time."""
        self._client = client.within(_ANSWER_SECONDS)
        self._namespace = namespace
        self._holder = holder
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._mine: dict[str, _Mine] = {}

    def acquire(self, name: str, seconds: int, labels: Mapping[str, str] | None = None) -> bool:
        """Take a Lease that is free, expired or ours already, or renew it; whether it is ours now.

        Args:
            name: the Lease's name.
            seconds: how long it is ours without being renewed.
            labels: for one that is created.
        """
        if name in self._mine and self.renew(name, seconds):
            return True
        try:
            lease = self._client.get(LEASES, name, self._namespace)
        except ClusterError as error:
            if error.status != 404:
                raise
            return self.create(name, seconds, labels)
        if self.holder(lease) != self._holder and not self.is_free(lease):
            return False
        return self._take(lease, seconds)

    def renew(self, name: str, seconds: int) -> bool:
        """Renew a Lease that is ours and that nobody changed meanwhile, in one request; else False,
        and it is to be acquired."""
        mine = self._mine.get(name)
        return mine is not None and self._take(mine.lease, seconds)

    def create(self, name: str, seconds: int, labels: Mapping[str, str] | None = None) -> bool:
        """Take a Lease that is not there; False: it is."""
        now = micro_time()
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "labels": dict(labels or {})},
            "spec": {
                "holderIdentity": self._holder,
                "leaseDurationSeconds": seconds,
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }
        began = self._clock()
        try:
            created = self._client.create(LEASES, lease, self._namespace)
        except ClusterError as error:
            if error.status == 409:
                return False
            raise
        self._mine[name] = _Mine(created, began + seconds)
        return True

    def list(self, labels: str) -> dict[str, Object]:
        """The Leases that a label selector means, by name, as the server's cache has them."""
        found = self._client.list(LEASES, self._namespace, labels=labels, not_older_than="0")
        return {lease["metadata"]["name"]: lease for lease in found.items}

    def until(self, name: str) -> float:
        """The moment of the clock up to which a Lease surely is ours, if nothing is done."""
        mine = self._mine.get(name)
        return mine.until if mine is not None else _EXPIRED

    def is_free(self, lease: Object) -> bool:
        """Whether nobody holds it, or who holds it was not seen renewing it in time."""
        now = self._clock()
        self._forget(now)
        spec = lease.get("spec") or {}
        name = lease["metadata"]["name"]
        holder = self.holder(lease)
        record = (lease["metadata"].get("uid"), holder, spec.get("renewTime"))
        seen = self._seen.get(name)
        if seen is None or seen.record != record:
            seen = self._seen[name] = _Seen(record, now, now)
        seen.looked_at = now
        return not holder or now - seen.since >= float(spec.get("leaseDurationSeconds") or 0)

    def is_ours(self, lease: Object) -> bool:
        """Whether it names us, be it from an earlier life."""
        return self.holder(lease) == self._holder

    @staticmethod
    def holder(lease: Object) -> str:
        """Who holds it; empty: nobody."""
        return str((lease.get("spec") or {}).get("holderIdentity") or "")

    def release(self, name: str) -> None:
        """Delete a Lease if it is ours, and only as long as nobody took it over."""
        mine = self._mine.pop(name, None)
        if mine is not None and self._delete(mine.lease):
            return
        # Changed since, by a renewal whose answer never came, or by another.
        try:
            lease = self._client.get(LEASES, name, self._namespace)
        except ClusterError as error:
            if error.status == 404:
                return
            raise
        if self.is_ours(lease):
            self._delete(lease)

    def _delete(self, lease: Object) -> bool:
        metadata = lease["metadata"]
        try:
            self._client.delete(
                LEASES,
                metadata["name"],
                self._namespace,
                uid=metadata["uid"],
                resource_version=metadata["resourceVersion"],
            )
        except ClusterError as error:
            if error.status not in (404, 409):
                raise
            return error.status == 404
        return True

    def _take(self, lease: Object, seconds: int) -> bool:
        spec = lease.get("spec") or {}
        name = lease["metadata"]["name"]
        now = micro_time()
        ours = self.is_ours(lease)
        changed = {
            **lease,
            "spec": {
                **spec,
                "holderIdentity": self._holder,
                "leaseDurationSeconds": seconds,
                "acquireTime": spec.get("acquireTime", now) if ours else now,
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (not ours),
            },
        }
        began = self._clock()
        try:
            # With its resourceVersion: of two who take it at once one is refused.
            taken = self._client.replace(LEASES, changed, self._namespace)
        except ClusterError as error:
            if error.status in (404, 409):
                self._mine.pop(name, None)
                return False
            raise
        self._mine[name] = _Mine(taken, began + seconds)
        return True

    def _forget(self, now: float) -> None:
        """Of a Lease that nobody looks at any more nothing is kept in mind."""
        for name in [n for n, seen in self._seen.items() if now - seen.looked_at > _FORGET_SECONDS]:
            del self._seen[name]
