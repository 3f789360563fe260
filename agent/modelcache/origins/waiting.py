"""How long an origin asks to wait."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_EXHAUSTED = re.compile(r'"[^"]*"\s*;\s*r\s*=\s*0\s*;\s*t\s*=\s*([0-9]{1,9})')


def retry_after_seconds(value: str | None) -> float | None:
    """A Retry-After header in seconds: a number, or a date (RFC 9110, 10.2.3).

    None when there is none or it can't be read; never negative.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None


def rate_limit_seconds(value: str | None) -> float | None:
    """A RateLimit header in seconds until the next window, such as `"api";r=0;t=55`.

    None when there is none, or when there are requests left (r > 0): the Hub sends it always.
    https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
    """
    found = _EXHAUSTED.search(value or "")
    return float(found.group(1)) if found else None
