"""What the web origin asks before the engine fetches: HEADs, and lists of a bounded size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from modelcache.api import shown_uri
from modelcache.errors import AuthFailed, ModelCacheError, NotFound, OriginUnavailable, RateLimited
from modelcache.origins.asking import Answer, Asker
from modelcache.origins.network import Network
from modelcache.origins.reach import ANYWHERE, Reach
from modelcache.origins.redirecting import REDIRECTS, Hop, redirected
from modelcache.origins.waiting import retry_after_seconds

_NO_HEAD = (400, 403, 404, 405, 501)
"""What servers say to a HEAD whose GET they answer; 403 is that of a URL signed for a GET."""
_CONTENT_RANGE = re.compile(r"bytes (?:[0-9]{1,18}-[0-9]{1,18}|\*)/([0-9]{1,18})")


@dataclass(frozen=True)
class Seen:
    """What a server says of a file.

    Attributes:
        size: bytes.
        etag: its entity tag with the quotes, if it is a strong one.
        weak: the tag, if it is a weak one.
        modified: the Last-Modified, as it was sent.
    """

    size: int
    etag: str | None
    weak: str | None
    modified: str | None


class WebClient:
    """Asks web servers. Safe for threads; to be closed."""

    def __init__(self, network: Network) -> None:
        self._asker = Asker(network, keep_alive=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._asker.__exit__(kind, error, traceback)

    def read(
        self, url: str, private: Mapping[str, str], *, limit: int, pinned: bool
    ) -> tuple[bytes, Reach]:
        """A whole file of at most `limit` bytes, and how far inside the host is that gave it.

        Raises:
            AuthFailed, NotFound, RateLimited, OriginUnavailable
        """
        answer = self._ask("GET", url, {}, private, limit=limit, pinned=pinned)
        if answer.status != 200:
            raise _refusal(answer, url, private)
        _check_identity(answer, url)
        return answer.body, answer.reach

    def look(
        self, url: str, private: Mapping[str, str], *, pinned: bool, within: Reach = ANYWHERE
    ) -> Seen:
        """The size of a file, and what tells it from its successors.

        By a HEAD; where that is refused or leaves out the size, by a GET of the first byte.
        `within`: how far inside its host may be.

        Raises:
            AuthFailed, NotFound, RateLimited, OriginUnavailable
        """
        answer = self._ask("HEAD", url, {}, private, limit=0, pinned=pinned, within=within)
        size = _number(answer.headers.get("Content-Length")) if answer.status == 200 else None
        # Zero is also what some programs say to any HEAD.
        if answer.status in _NO_HEAD or (answer.status == 200 and not size):
            first = {"Range": "bytes=0-0"}
            answer = self._ask("GET", url, first, private, limit=0, pinned=pinned, within=within)
            size = _size(answer)
        elif answer.status != 200:
            raise _refusal(answer, url, private)
        if size is None:
            if answer.status not in (200, 206):
                raise _refusal(answer, url, private)
            raise OriginUnavailable(f"{shown_uri(url)}: the server doesn't say how long it is")
        _check_identity(answer, url)
        etag = answer.headers.get("ETag") or ""
        strong = etag if re.fullmatch(r'"[^"\s]+"', etag) and etag.isascii() else None
        modified = answer.headers.get("Last-Modified", "")
        return Seen(
            size,
            strong,
            etag if etag and strong is None else None,
            # What can't be a date can't be sent back as one either.
            modified if modified.isascii() and modified.isprintable() and modified else None,
        )

    def _ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        private: Mapping[str, str],
        *,
        limit: int,
        pinned: bool,
        within: Reach = ANYWHERE,
    ) -> Answer:
        hop = Hop(url, within=within)
        while True:
            sent = {**headers, **private} if hop.private else headers
            answer = self._asker.ask(method, hop.url, sent, limit=limit, within=hop.within)
            if answer.status not in REDIRECTS:
                return answer
            location = answer.headers.get("Location")
            hop = redirected(hop, location, pinned=pinned, reach=answer.reach)


def _refusal(answer: Answer, url: str, private: Mapping[str, str]) -> ModelCacheError:
    place, status = shown_uri(url), answer.status
    wait = retry_after_seconds(answer.headers.get("Retry-After"))
    if status in (401, 403):
        if private:
            return AuthFailed(f"{place}: the server refuses the secret's credentials ({status})")
        signed = "; or, if the URL is signed, it has expired" if urlsplit(url).query else ""
        return AuthFailed(
            f"{place}: the server wants credentials ({status}): set secretName, with a Secret that"
            f" has username and password, or token{signed}"
        )
    if status in (404, 410):
        return NotFound(f"{place} is not there ({status})")
    if status == 429:
        return RateLimited(f"{place}: the server asks for fewer requests", retry_after=wait)
    return OriginUnavailable(f"{place}: the server answers {status}", retry_after=wait)


def _check_identity(answer: Answer, url: str) -> None:
    """Check that it is the file itself: of a compressed one neither size nor ranges are known."""
    coding = answer.headers.get("Content-Encoding", "identity")
    if coding not in ("identity", ""):
        raise NotFound(
            f"{shown_uri(url)} is there only compressed (Content-Encoding {coding[:20]!r}): have"
            " the server send it as it is"
        )


def _size(answer: Answer) -> int | None:
    """The size of the whole file in the answer to a GET of its first byte."""
    if answer.status == 200:
        return _number(answer.headers.get("Content-Length"))
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status == 206:
        return int(found[1]) if found else None
    # An empty file has no first byte.
    return 0 if answer.status == 416 and found and int(found[1]) == 0 else None


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else None
