"""Redirects: the same rules for the engine, and for all that origins ask without an SDK.

- Five at most.
- https never becomes http; this machine leads to another without TLS only where a digest checks
  what comes.
- What is private goes to the authority that was asked, and doesn't come back after a detour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

from modelcache.api import shown_uri
from modelcache.api.uri import is_loopback
from modelcache.errors import OriginUnavailable

MAX_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset([301, 302, 303, 307, 308])
"""The statuses that are one."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Hop:
    """Where a request is sent.

    Attributes:
        url: absolute, http or https.
        private: whether credentials may go along.
        count: how many redirects led here.
    """

    url: str
    private: bool = True
    count: int = 0


def redirected(hop: Hop, location: str | None, *, pinned: bool) -> Hop:
    """Where a redirect leads.

    Args:
        hop: where it was met.
        location: the answer's Location.
        pinned: whether what comes is compared with a digest.

    Raises:
        OriginUnavailable: it is not followed.
    """
    place = shown_uri(hop.url)
    if hop.count == MAX_REDIRECTS:
        raise OriginUnavailable(f"{place} redirects in circles")
    try:
        target = urljoin(hop.url, location or "")
        parts, came = urlsplit(target), urlsplit(hop.url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or not target.isascii():
        raise OriginUnavailable(f"{place} redirects to a place that is not HTTP")
    if parts.scheme == "http":
        outwards = is_loopback(came.hostname or "") and not is_loopback(host)
        if came.scheme == "https" or (outwards and not pinned):
            raise OriginUnavailable(
                f"{place} redirects to a place without TLS, which is not followed"
            )
    return Hop(target, hop.private and same_origin(hop.url, target), hop.count + 1)


def same_origin(one: str, other: str) -> bool:
    """Whether two URLs have scheme, host and port in common."""
    return _origin(one) == _origin(other)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
