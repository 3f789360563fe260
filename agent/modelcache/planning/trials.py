"""What the agent remembers of its tries: pure transitions, kept in memory only.

A restart forgets it, which costs one early retry for each failing model and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from modelcache.errors import ModelCacheError, OriginChanged, OriginUnavailable, Reason

Delay = Callable[..., float]

_PATIENT = (Reason.AUTH_FAILED, Reason.NOT_FOUND, Reason.UNSAFE_PATH, Reason.UNSAFE_FORMAT)
"""What only a person changes: tried again at a slower pace."""

MOST_DELAY = 600.0
"""Seconds between two tries of one model, at most."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What is remembered of tries that failed.

    Attributes:
        failures: in a row.
        reason, message: of the last one.
        retry_at: when it is tried again, in seconds since the epoch.
    """

    failures: int
    reason: Reason
    message: str
    retry_at: float

    @classmethod
    def of(cls, error: BaseException, failures: int, now: float, delay: Delay) -> Failure:
        """The last of so many; `delay` is `transfer.delay`."""
        reason = error.reason if isinstance(error, ModelCacheError) else Reason.INTERNAL
        first, wish = _first_delay(error)
        retry_at = now + delay(failures, first=first, most=MOST_DELAY, wish=wish)
        return cls(failures, reason, told(error), retry_at)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What an origin was found to hold for a source.

    Attributes:
        snapshot: the name that it has, or would have, on the disk.
        revision: the origin's revision.
        size: bytes of the selected files.
        at: when, in seconds since the epoch.
    """

    snapshot: str
    revision: str
    size: int
    at: float


@dataclass(frozen=True, slots=True)
class Trial:
    """What is known of one model's tries.

    Attributes:
        source: the digest of the source that this speaks of; another source begins anew.
        resolved: what the origin holds and is to be fetched.
        snapshot: what the origin was last found to hold, by its name on the disk.
        size: bytes of that.
        checked_at: when the origin was last asked, in seconds since the epoch.
        failures: in a row.
        reason, message: of the last failure.
        retry_at: when it is tried again, in seconds since the epoch.
    """

    source: str
    resolved: Resolved | None = None
    snapshot: str | None = None
    size: int = 0
    checked_at: float | None = None
    failures: int = 0
    reason: Reason | None = None
    message: str | None = None
    retry_at: float = 0.0

    def found(self, resolved: Resolved) -> Trial:
        """The origin has answered."""
        return replace(
            self,
            resolved=resolved,
            snapshot=resolved.snapshot,
            size=resolved.size,
            checked_at=resolved.at,
        )

    def succeeded(self) -> Trial:
        """The model is there. What the origin holds is asked anew the next time."""
        return replace(self, resolved=None, failures=0, reason=None, message=None, retry_at=0.0)

    def failed(self, error: BaseException, now: float, delay: Delay) -> Trial:
        """A try failed; `delay` is `transfer.delay`.

        What was resolved is asked again the next time: it may be what is wrong.
        """
        failure = Failure.of(error, self.failures + 1, now, delay)
        return replace(
            self,
            resolved=None,
            failures=failure.failures,
            reason=failure.reason,
            message=failure.message,
            retry_at=failure.retry_at,
        )


def _first_delay(error: BaseException) -> tuple[float, float | None]:
    """Seconds until the try after a first failure, and what the origin wishes besides."""
    first = 30.0 if isinstance(error, ModelCacheError) and error.reason in _PATIENT else 5.0
    if isinstance(error, OriginChanged):
        first = 1.0
    return first, error.retry_after if isinstance(error, OriginUnavailable) else None


def told(error: BaseException) -> str:
    """A failure as a sentence."""
    if isinstance(error, ModelCacheError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"a defect: {error!r}"
