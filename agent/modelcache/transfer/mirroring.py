"""Which mirror is asked, and which is left alone because it failed: a circuit breaker for each.

A mirror that failed isn't asked for a while, at first for some seconds and then for longer; then
one request tries it, and all others follow when that went well.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from modelcache.errors import ChecksumMismatch, ModelCacheError, NotFound, OriginUnavailable
from modelcache.origins.protocol import HttpLocation
from modelcache.transfer.backoff import delay

_FIRST_SECONDS: Final = 10.0
_MOST_SECONDS: Final = 600.0
_MISSES: Final = 3


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    misses: int = 0
    failed_at: float = 0.0
    closed_until: float = 0.0
    trying: bool = False


class Mirrors:
    """The breakers, by the mirrors' URLs. Guarded by the engine's lock."""

    def __init__(self) -> None:
        self._breakers: dict[str, _Breaker] = {}

    def choose(
        self, location: HttpLocation, barred: Container[str], now: float
    ) -> HttpLocation | None:
        """Where to ask instead of the origin's location; None: the origin itself."""
        for each in location.mirrors:
            assert each.mirror is not None
            if each.mirror not in barred and self._may(each.mirror, now):
                return each
        return None

    def _may(self, mirror: str, now: float) -> bool:
        breaker = self._breakers.get(mirror)
        if breaker is None or not breaker.failures:
            return True
        return breaker.closed_until <= now and not breaker.trying

    def began(self, mirror: str) -> None:
        """It is asked."""
        breaker = self._breakers.setdefault(mirror, _Breaker())
        breaker.trying = breaker.failures > 0

    def ended(self, mirror: str, began: float) -> None:
        """Whoever asked is done; they had begun before it failed, or are the one who tries it."""
        breaker = self._breakers[mirror]
        if began >= breaker.failed_at:
            breaker.trying = False

    def went_well(self, mirror: str, began: float) -> None:
        """It gave what it was asked for. What was asked before it failed says nothing."""
        if began >= self._breakers[mirror].failed_at:
            self._breakers[mirror] = _Breaker()

    def failed(self, mirror: str, error: ModelCacheError, now: float) -> float:
        """It failed.

        That it hasn't got a file is no failure of the mirror, unless nothing else comes of it.

        Returns:
            Seconds for which it isn't asked by anybody.
        """
        breaker = self._breakers.setdefault(mirror, _Breaker())
        wrong = isinstance(error, ChecksumMismatch)
        if breaker.closed_until > now and not wrong:
            return breaker.closed_until - now
        if isinstance(error, NotFound):
            breaker.misses += 1
            if breaker.misses < _MISSES:
                return 0.0
        breaker.failures += 1
        wish = error.retry_after if isinstance(error, OriginUnavailable) else None
        pause = delay(breaker.failures, first=_FIRST_SECONDS, most=_MOST_SECONDS, wish=wish)
        if wrong:
            pause = _MOST_SECONDS
        breaker.failed_at, breaker.closed_until, breaker.trying = now, now + pause, False
        return pause
