"""Redirects: the same rules for the engine, and for all that origins ask without an SDK.

- Five at most.
- Never further inside than they come from (`origins.reach`).
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
from modelcache.origins.reach import ANYWHERE, Reach, reach_of

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
        within: how far inside the host may be.
    """

    url: str
    private: bool = True
    count: int = 0
    within: Reach = ANYWHERE


def redirected(hop: Hop, location: str | None, *, pinned: bool, reach: Reach | None = None) -> Hop:
    """Where a redirect leads.

    Args:
        hop: where it was met.
        location: the answer's Location.
        pinned: whether what comes is compared with a digest.
        reach: how far inside the host is that answered; None: what its name tells.

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
    within = reach_of(came.hostname or "") if reach is None else reach
    return Hop(target, hop.private and same_origin(hop.url, target), hop.count + 1, within)


def same_origin(one: str, other: str) -> bool:
    """Whether two URLs have scheme, host and port in common."""
    return _origin(one) == _origin(other)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
