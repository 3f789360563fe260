"""Which blob is to be read back next, and when: a pure function of when each was last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_SKEW_SECONDS: Final = 3600.0
"""A note from further in the future is of a clock that was wrong, and says nothing."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob that is there.

    Attributes:
        digest: its SHA-256 in hex.
        size: in bytes.
        arrived: when its content was written, in seconds since the epoch: it was verified then.
    """

    digest: str
    size: int
    arrived: float


def due_at(blob: Stored, checked: float | None, every: float, now: float) -> float:
    """When a blob is to be read back, in seconds since the epoch.

    Of many that arrived together, each is due at a time of its own in the first round, by its
    digest, which is as good as chance; from then on they stay as far apart.

    Args:
        blob: which.
        checked: when it was last read back; None: not known.
        every: seconds between two times.
        now: seconds since the epoch.
    """
    if checked is not None and checked <= now + _SKEW_SECONDS:
        return checked + every
    if blob.arrived > now + _SKEW_SECONDS:
        return now
    return blob.arrived + every * (int(blob.digest[:8], 16) + 1) / 2**32


def in_order(
    blobs: Mapping[str, Stored], checked: Mapping[str, float], every: float, now: float
) -> Iterator[tuple[float, Stored]]:
    """All blobs with when they are due: the one that waits for the longest first."""
    due = ((due_at(blob, checked.get(blob.digest), every, now), blob) for blob in blobs.values())
    yield from sorted(due, key=lambda pair: (pair[0], pair[1].digest))
