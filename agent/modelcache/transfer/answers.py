"""Answers to GETs of a file's bytes: whether one is what was asked for, and what a refusal means.

RFC 9110, 14 and 15.3.7.
"""

from __future__ import annotations

import http.client
import re
from typing import Final
from urllib.parse import SplitResult

from modelcache.errors import (
    AuthFailed,
    ModelCacheError,
    NotFound,
    OriginChanged,
    OriginUnavailable,
    RateLimited,
)
from modelcache.origins.protocol import HttpLocation
from modelcache.origins.waiting import retry_after_seconds

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
BROKEN: Final = (OSError, http.client.HTTPException, UnicodeError)
"""What a connection that breaks raises. The last of a host that can't be one, such as `a..b`."""


class LocationExpired(AuthFailed):
    """A 401 or 403 for a location that may just be too old: locate again."""


def check(
    response: http.client.HTTPResponse,
    location: HttpLocation,
    place: str,
    start: int,
    end: int,
    size: int,
) -> int:
    """Check an answer's head.

    Args:
        response: the answer.
        location: what was asked.
        place: of whom, for people.
        start, end: the bytes that were asked for, from `start` to before `end`.
        size: of the file, in bytes.

    Returns:
        The offset in the file of the body's first byte.

    Raises:
        LocationExpired, AuthFailed, NotFound, OriginChanged, RateLimited, OriginUnavailable
    """
    if response.status not in (200, 206):
        raise _refusal(response, location, place)
    asked = location.headers.get("Accept-Encoding", "identity")
    if response.headers.get("Content-Encoding", "identity") not in ("identity", asked):
        raise OriginUnavailable(f"{place} sends its content encoded, which was not asked for")
    etag = response.headers.get("ETag")
    if location.if_match and etag != location.if_match and (etag or location.mirror):
        raise OriginChanged(f"{place} is another object now (its ETag changed)")
    since = location.unmodified_since
    if since and response.headers.get("Last-Modified") != since:
        # Servers may pass over If-Unmodified-Since (RFC 9110, 13.1.4).
        raise OriginChanged(f"{place} is another object now: it was last modified {since}")
    length = response.length
    if response.status == 200:
        if length is not None and length != size:
            raise OriginChanged(f"{place} has {length} bytes now; {size} were expected")
        return 0
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not found:
        raise OriginUnavailable(f"{place} answers 206 without a Content-Range")
    first, last, total = int(found[1]), int(found[2]), found[3]
    if total not in ("*", str(size)):
        raise OriginChanged(f"{place} has {total} bytes now; {size} were expected")
    if first != start or last >= end or last < first:
        raise OriginUnavailable(
            f"{place} was asked for bytes {start}-{end - 1} and sends {first}-{last}"
        )
    if length is not None and length != last - first + 1:
        raise OriginUnavailable(f"{place} contradicts itself about the length of its answer")
    return start


def _refusal(
    response: http.client.HTTPResponse, location: HttpLocation, place: str
) -> ModelCacheError:
    status = response.status
    try:
        hint = response.read(2048).decode("utf-8", "replace")
    except BROKEN:
        hint = ""
    wait = retry_after_seconds(response.headers.get("Retry-After"))
    if status == 407:
        return AuthFailed(
            f"a proxy in front of {place} wants a user name and password (HTTP 407): write them"
            " into HTTP_PROXY as http://user:password@host:port"
        )
    if status in (401, 403):
        if location.renewable:
            return LocationExpired(f"{place} refuses the credentials (HTTP {status})")
        return AuthFailed(f"{place} refuses the credentials (HTTP {status})")
    if status in (404, 410) and location.pinned:
        return OriginChanged(f"{place} is not there any more as it was (HTTP {status})")
    if status in (404, 410):
        return NotFound(f"{place} is not there (HTTP {status})")
    if status in (412, 416):
        return OriginChanged(f"{place} is another object now (HTTP {status})")
    if status == 429 or (status == 503 and "SlowDown" in hint):
        message = f"{place} asks for fewer requests (HTTP {status})"
        return RateLimited(message, retry_after=wait, status=status)
    message = f"{place} answers HTTP {status}"
    return OriginUnavailable(message, retry_after=wait, overloaded=status == 503, status=status)


def place_of(url: SplitResult) -> str:
    """The URL for people: without a query, which may hold a signature."""
    return f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}{url.path}"
