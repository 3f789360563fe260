"""How long to wait before the next try."""

from __future__ import annotations

import random


def delay(failures: int, *, first: float, most: float, wish: float | None = None) -> float:
    """Seconds to wait after so many failures in a row: doubling, with full jitter.

    Jitter over the upper half, so that many nodes don't return at once and none returns at once
    (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/). What the
    origin wishes (`Retry-After`) is a lower bound, up to `most`.
    """
    ceiling = min(most, first * 2.0 ** min(failures - 1, 32))
    seconds = ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - no secret depends on it
    return max(seconds, min(wish or 0.0, most))
