"""Election: one of several replicas leads, by a Lease."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from modelcache.cluster.failures import Failures
from modelcache.cluster.leases import Leases
from modelcache.errors import ClusterError


class Election:
    """One replica's part in it. `cycle` is a task's; `leading` is for any thread."""

    def __init__(
        self,
        leases: Leases,
        name: str,
        *,
        lease_seconds: int = 15,
        renew_seconds: float = 10.0,
        retry_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The numbers are those of Kubernetes' own controllers.

        Args:
            leases: on behalf of this replica, and of nothing else.
            name: the Lease.
            lease_seconds: others wait so long before they take over.
            renew_seconds: without a renewal for so long it leads no more: well before others may.
            retry_seconds: between two tries, to renew or to acquire.
            clock: a monotonic one, in seconds.
        """
        self._leases = leases
        self._name = name
        self._lease_seconds = lease_seconds
        self._renew_seconds = renew_seconds
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._failures = Failures("election", clock=clock, lease=name)
        self._held_since: float | None = None
        self._maybe_ours = False

    @property
    def leading(self) -> bool:
        """Whether this replica may write now."""
        held = self._held_since
        return held is not None and self._clock() - held < self._renew_seconds

    def cycle(self) -> float:
        """Acquire or renew the Lease.

        Returns:
            Seconds until the next try.
        """
        began = self._clock()
        try:
            ours = self._leases.acquire(self._name, self._lease_seconds)
        except ClusterError as error:
            # The next try comes at its time: two replicas that ask every two seconds are no load,
            # and a pause that grew would cost the leader its Lease.
            self._failures.failed(error)
            # The server may have done it, and only the answer got lost.
            self._maybe_ours = True
            wish = min(error.retry_after or 0.0, self._lease_seconds)
            return max(wish, self._pause())
        self._failures.settled()
        # From before the request: the server may have noted it at any time since.
        self._held_since = began if ours else None
        self._maybe_ours = ours
        return self._pause()

    def release(self) -> None:
        """Lead no more, and let another take over at once. Tells nobody of failures but the log.

        Not while a `cycle` is running.
        """
        self._held_since = None
        if not self._maybe_ours:
            return
        try:
            self._leases.release(self._name)
        except ClusterError as error:
            self._failures.failed(error)
        else:
            self._maybe_ours = False

    def _pause(self) -> float:
        return self._retry_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
