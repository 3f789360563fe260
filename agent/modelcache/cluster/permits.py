"""Permits: at most so many nodes fetch the same from its origin at the same time.

Each permit is a Lease in the agents' namespace: a holder that dies blocks nobody for long, and one
that was paused knows that its permit has lapsed. Who has none looks again now and then, in growing
pauses: five hundred nodes that wait are some ten requests a second. And nobody waits for an API
server that can't be asked: then everybody fetches.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from modelcache.api import API_GROUP
from modelcache.cluster.client import Object
from modelcache.cluster.failures import Failures
from modelcache.cluster.leases import Leases
from modelcache.errors import ClusterError

log = structlog.get_logger(__name__)

PERMIT_LABEL: Final = f"{API_GROUP}/permit"
"""On the Leases that are permits: which fetch they are for."""

_LEASE_SECONDS: Final = 40
_RENEW_SECONDS: Final = 10.0
_FIRST_LOOK_SECONDS: Final = 4.0
_MOST_LOOK_SECONDS: Final = 60.0
_PATIENCE_SECONDS: Final = 60.0
_FIRST_AGAIN_SECONDS: Final = 2.0
_MOST_AGAIN_SECONDS: Final = 30.0
_IDLE_SECONDS: Final = 60.0
_EXPIRED: Final = float("-inf")
_NO_ROOM: Final = float("inf")


@dataclass(slots=True)
class _Want:
    """One permit that is wanted.

    Attributes:
        priority: of the model; higher is asked for first.
        due: when it is to be renewed, or looked for again.
        lease: the Lease that we hold, or held last; None: none.
        until: up to when it surely is ours.
        pause: seconds between the last two looks.
    """

    priority: int
    due: float
    lease: str | None = None
    until: float = _EXPIRED
    pause: float = 0.0


def permit_label(key: str) -> str:
    """What the Leases of a key carry as the value of `PERMIT_LABEL`, and in their names."""
    return hashlib.sha256(key.encode()).hexdigest()[:10]


class Permits:
    """This node's permits. `cycle` is a task's; `want` and `held` are for any thread."""

    def __init__(
        self,
        leases: Leases,
        *,
        slots: int,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        """Nothing is asked yet.

        Args:
            leases: on behalf of this node, by the same clock; used by `cycle` and `close` alone.
            slots: how many may hold a permit for the same key.
            on_change: called, from the thread of `cycle`, when `held` is another.
            clock: a monotonic one, in seconds.
            patience: seconds, half as much again at most, without an answer of the API server
                after which everything that is wanted counts as held.
        """
        self._leases = leases
        self._slots = slots
        self._on_change = on_change
        self._clock = clock
        self._patience = patience
        self._failures = Failures(
            "permits", first=_FIRST_AGAIN_SECONDS, most=_MOST_AGAIN_SECONDS, clock=clock
        )
        self._told: frozenset[str] = frozenset()
        self._again_at = _EXPIRED
        self._mutex = threading.Lock()
        self._wants: dict[str, _Want] = {}
        self._most = 0
        self._given_back: list[str] = []
        self._open_at: float | None = None

    def want(self, keys: Mapping[str, int], most: int | None = None) -> None:
        """Ask for permits, by key with their priority. Those that are not among them go back.

        `most`: how many are of use at a time; None: all. Of keys with the same priority it is left
        to chance which they are, so that nodes that want the same don't all wait for the same.
        """
        now = self._clock()
        with self._mutex:
            self._most = len(keys) if most is None else most
            for key in self._wants.keys() - keys.keys():
                lease = self._wants.pop(key).lease
                if lease is not None:
                    self._given_back.append(lease)
            if not keys:
                self._open_at = None
            for key, priority in keys.items():
                want = self._wants.setdefault(key, _Want(priority, now))
                want.priority = priority
            for want in self._wants.values():
                if want.due == _NO_ROOM and self._room(want.priority) > 0:
                    want.due = now

    def held(self) -> frozenset[str]:
        """The keys whose fetch may begin now.

        A permit that could not be renewed lapses by itself, whatever this process was doing. What
        becomes of a fetch that has begun is the caller's: who stops it wins nobody anything.
        """
        now = self._clock()
        with self._mutex:
            if self._open_at is not None and now >= self._open_at:
                return frozenset(self._wants)
            return frozenset(key for key, want in self._wants.items() if now < want.until)

    def cycle(self) -> float:
        """Give back, renew and look for permits, as far as it is due.

        Returns:
            Seconds until the next round is due.
        """
        now = self._clock()
        if now >= self._again_at:
            try:
                if self._give_back() + self._tend(now):
                    self._asked()
            except ClusterError as error:
                self._not_asked(error, now)
        held = self.held()
        if held != self._told:
            self._told = held
            self._on_change()
        return max(0.1, self._due() - self._clock())

    def close(self) -> None:
        """Give everything back, as far as the API server can be asked. Not while a `cycle` runs."""
        self.want({})
        try:
            self._give_back()
        except ClusterError as error:
            log.debug("permits.not_given_back", message=str(error))

    def _room(self, priority: int) -> int:
        """How many more are of use for a priority. Under the lock.

        For each that is still missing of a higher one a place is kept.
        """
        wants = self._wants.values()
        return self._most - sum(w.lease is not None or w.priority > priority for w in wants)

    def _due(self) -> float:
        """The moment of the next round."""
        with self._mutex:
            dues = [want.due for want in self._wants.values() if want.due != _NO_ROOM]
            if self._given_back:
                dues.append(_EXPIRED)
            due = max(self._again_at, min(dues)) if dues else self._clock() + _IDLE_SECONDS
            # When waiting is over, that is to be told.
            open_at = self._open_at
        return due if open_at is None or open_at <= self._clock() else min(due, open_at)

    # Whether the API server can be asked

    def _asked(self) -> None:
        self._failures.settled()
        with self._mutex:
            self._open_at = None

    def _not_asked(self, error: ClusterError, since: float) -> None:
        pause = self._failures.failed(error)
        with self._mutex:
            if any(want.lease for want in self._wants.values()):
                # Who holds is to be back before those who look: they would find it expired.
                pause = min(pause, max(_RENEW_SECONDS / 2, error.retry_after or 0.0))
            self._again_at = self._clock() + pause
            if self._open_at is None:
                # Not all nodes at the same moment.
                patience = self._patience * random.uniform(1.0, 1.5)  # noqa: S311 - no secret
                self._open_at = since + patience

    # Asking. Each raises ClusterError at the first that fails: the others would too.

    def _give_back(self) -> int:
        """Give back what is not wanted any more; how many."""
        done = 0
        while True:
            with self._mutex:
                if not self._given_back:
                    return done
                lease = self._given_back.pop()
            try:
                self._leases.release(lease)
            except ClusterError:
                with self._mutex:
                    self._given_back.append(lease)
                raise
            done += 1

    def _tend(self, now: float) -> int:
        """Renew what is held, then look for what is not, the urgent ones first; how many."""
        with self._mutex:
            due = [(key, want) for key, want in self._wants.items() if want.due <= now]
            due.sort(key=lambda pair: (-pair[1].priority, pair[0]))
        missing = []
        for key, want in due:
            if want.lease is not None and self._acquire(want.lease, key):
                self._note(key, want, want.lease)
                continue
            if want.lease is not None:
                log.warning("permit.lost", lease=want.lease)
                with self._mutex:
                    want.lease, want.until = None, _EXPIRED
            missing.append((key, want))
        if missing:
            self._look_for(missing)
        return len(due)

    def _look_for(self, missing: Sequence[tuple[str, _Want]]) -> None:
        """Look for permits, the urgent ones first, as many as are of use; of equals for any."""
        with self._mutex:
            of_use = [pair for pair in missing if self._room(pair[1].priority) > 0]
        self._put_off(pair for pair in missing if pair not in of_use)
        if not of_use:
            return
        random.shuffle(of_use)
        of_use.sort(key=lambda pair: -pair[1].priority)
        # One question for all: in a crowd each node's eight would be eight.
        labels = ",".join(permit_label(key) for key, _ in of_use)
        there = self._leases.list(f"{PERMIT_LABEL} in ({labels})")
        for key, want in of_use:
            with self._mutex:
                room = self._room(want.priority)
            if room > 0:
                self._note(key, want, self._look(key, there))
            else:
                self._put_off([(key, want)])

    def _put_off(self, missing: Iterable[tuple[str, _Want]]) -> None:
        """Not to be looked for until there is room again."""
        with self._mutex:
            for _, want in missing:
                want.due = _NO_ROOM

    def _note(self, key: str, want: _Want, lease: str | None) -> None:
        now = self._clock()
        with self._mutex:
            if lease is not None:
                want.until = self._leases.until(lease)
                want.pause = 0.0
                want.due = now + _RENEW_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311
            else:
                want.until = _EXPIRED
                want.pause = min(_MOST_LOOK_SECONDS, 2 * want.pause or _FIRST_LOOK_SECONDS)
                want.due = now + want.pause * random.uniform(0.5, 1.0)  # noqa: S311
            want.lease = lease
            if lease is not None and self._wants.get(key) is not want:
                # Not wanted any more since we began to ask.
                self._given_back.append(lease)

    def _look(self, key: str, there: Mapping[str, Object]) -> str | None:
        """Take one of the permits that are free, if there is any; its Lease.

        `there`: the Leases of the key, and perhaps of others, by name.
        """
        label = permit_label(key)
        names = [f"modelcache-permit-{label}-{slot}" for slot in range(self._slots)]
        # From an earlier life of this process.
        ours = [name for name in names if name in there and self._leases.is_ours(there[name])]
        free = [name for name in names if self._is_free(there.get(name))]
        # Not all at the same one, and one try each: who meets a crowd comes back later.
        for name in ours or random.sample(free, min(1, len(free))):
            if name in there:
                if self._acquire(name, key):
                    return name
            elif self._leases.create(name, _LEASE_SECONDS, {PERMIT_LABEL: label}):
                return name
        return None

    def _is_free(self, lease: Object | None) -> bool:
        return lease is None or self._leases.is_free(lease)

    def _acquire(self, name: str, key: str) -> bool:
        return self._leases.acquire(name, _LEASE_SECONDS, {PERMIT_LABEL: permit_label(key)})
