"""Manners towards each host: how many connections at once, and when to leave it alone.

A host that answers 429 or 503 means everybody and not the one request: it is left alone for as
long as it asks, and then gets half of the connections it had. They grow again by one at a time as
long as it answers well (additive increase, multiplicative decrease, as TCP does it). Other hosts
notice nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from modelcache.transfer.backoff import delay

MOST_PAUSE_SECONDS: Final = 300.0
"""Longer than a rate limit's window (the Hub's is five minutes) nobody is left alone."""
_GROW_SECONDS: Final = 5.0
_NO_LIMIT: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Pause:
    """What a refusal comes to.

    Attributes:
        seconds: for which the host is left alone.
        allowed: connections that it gets then.
        news: whether this is the first to tell of it.
    """

    seconds: float
    allowed: int
    news: bool


@dataclass(slots=True)
class _Host:
    allowed: int
    in_flight: int = 0
    paused_until: float = 0.0
    cut_at: float = 0.0
    grown_at: float = 0.0
    refusals: int = 0


class Hosts:
    """What is known of the hosts that are not as usual, or in use. Guarded by the engine's lock.

    A host is named by its netloc; the empty name is no host, and always free.
    """

    def __init__(
        self, connections: int, most: int | None, *, first_delay: float, most_delay: float
    ) -> None:
        """Nothing is known yet.

        Args:
            connections: how many are used at once, for all hosts together. Those that hang come on
                top, so that a host has no limit just because of this one.
            most: to one host; None: no limit.
            first_delay, most_delay: seconds between tries, at first and at most.
        """
        self._most = _NO_LIMIT if most is None else most
        self._enough = min(connections, self._most)
        self._first = first_delay
        self._longest = most_delay
        self._hosts: dict[str, _Host] = {}

    def free(self, name: str, now: float) -> bool:
        """Whether a host may be asked for something more now."""
        host = self._hosts.get(name)
        return host is None or (host.in_flight < host.allowed and host.paused_until <= now)

    def allowed(self, name: str) -> int:
        """How many connections a host may have."""
        host = self._hosts.get(name)
        return self._most if host is None else host.allowed

    def began(self, name: str) -> None:
        """A connection turns to a host."""
        if name:
            self._host(name).in_flight += 1

    def ended(self, name: str) -> None:
        """A connection is done with a host."""
        host = self._hosts.get(name)
        if host is None:
            return
        host.in_flight -= 1
        if host.in_flight == 0 and host.allowed == self._most and not host.refusals:
            del self._hosts[name]

    def slow_down(self, name: str, began: float, now: float, wish: float | None) -> Pause:
        """A host asks for fewer requests.

        Args:
            name: the host.
            began: when the request that it refused was begun.
            now: the time.
            wish: the seconds that it asks to be left alone, if it said so.

        Returns:
            For how long it is left alone, and what it gets then.
        """
        if not name:
            return Pause(0.0, self._most, news=False)
        host = self._host(name)
        news = began >= host.cut_at
        if news:
            # Not again for those that were under way when it was cut.
            host.refusals += 1
            host.cut_at = host.grown_at = now
            host.allowed = max(1, min(host.allowed, host.in_flight) // 2)
        pause = delay(host.refusals, first=self._first, most=self._longest)
        pause = max(pause, min(wish or 0.0, MOST_PAUSE_SECONDS))
        host.paused_until = max(host.paused_until, now + pause)
        return Pause(host.paused_until - now, host.allowed, news)

    def went_well(self, name: str, began: float, now: float) -> None:
        """A host gave what it was asked for."""
        host = self._hosts.get(name)
        if host is None or began < host.cut_at:
            return
        host.refusals = 0
        if host.allowed < self._most and now - host.grown_at >= _GROW_SECONDS:
            host.grown_at = now
            host.allowed += 1
            if host.allowed >= self._enough:
                host.allowed = self._most

    def next_time(self, now: float) -> float | None:
        """When the next host is to be asked again, in seconds from now."""
        waits = [h.paused_until - now for h in self._hosts.values() if h.paused_until > now]
        return min(waits, default=None)

    def _host(self, name: str) -> _Host:
        return self._hosts.setdefault(name, _Host(self._most))
