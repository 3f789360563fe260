"""Questions of a bounded size over HTTP, for origins that no SDK speaks for.

Redirects are the asker's business, since what may go along differs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self
from urllib.parse import urlsplit
from weakref import finalize

import httpx2

from modelcache import __version__
from modelcache.api import shown_uri
from modelcache.errors import OriginUnavailable
from modelcache.origins.network import Network
from modelcache.origins.reach import ANYWHERE, Reach
from modelcache.origins.transports import NetworkTransport

CONNECTIONS: Final = 8
"""Requests at the same time."""
ATTEMPTS: Final = 3
"""How often a request is sent whose connection breaks, as one does that the server had closed."""
TIMEOUT: Final = httpx2.Timeout(30, connect=10)
"""Seconds: 10 for a connection, 30 for the next piece of an answer."""
ANSWER_SECONDS: Final = 60.0
"""How long a whole answer may take, and longer by a second for each `LEAST_RATE` of its bytes."""
LEAST_RATE: Final = 64 * 1024
_PIECE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of whatever status; the headers' names are in any case.

    `reach`: how far inside the host is that gave it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    reach: Reach = Reach.INTERNET


class TooLong(OriginUnavailable):
    """An answer that has more bytes than it may have."""


class Asker:
    """Asks. Safe for threads."""

    def __init__(self, network: Network, *, keep_alive: bool) -> None:
        """`keep_alive`: connections are kept for the next question, until the block ends."""
        limits = httpx2.Limits(
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS if keep_alive else 0,
        )
        self._client = httpx2.Client(
            transport=NetworkTransport(network, limits),
            timeout=TIMEOUT,
            follow_redirects=False,
            trust_env=False,
        )
        # An origin has no end that anybody would tell it of: its connections go with it.
        finalize(self, self._client.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        limit: int,
        body: bytes | Path | None = None,
        patience: float | None = None,
        check: Callable[[], object] | None = None,
        within: Reach = ANYWHERE,
    ) -> Answer:
        """Send a request, once more where the connection breaks.

        Args:
            method: of HTTP; it must do no harm to be sent twice.
            url: sent as it stands.
            headers: beside our own.
            limit: bytes that the answer's body may have; 0: it is not read.
            body: what is sent; of a path, the file's content, which is read as it is sent.
            patience: seconds for the next piece of the answer, where `TIMEOUT` is too short.
            check: called before each piece of a path's content: what it raises ends the request.
            within: how far inside the host may be, where another one named it.

        Raises:
            AuthFailed: a proxy refuses.
            TooLong
            OriginUnavailable: no answer, or one that is too slow.
        """
        common = {
            "User-Agent": f"model-cache-agent/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }
        left = ATTEMPTS
        while True:
            left -= 1
            try:
                if isinstance(body, Path):
                    with body.open("rb") as file:
                        size = {"Content-Length": str(os.fstat(file.fileno()).st_size)}
                        given = {**common, **headers, **size}
                        pieces = _pieces(file, check)
                        return self._once(method, url, given, limit, pieces, patience, within)
                given = {**common, **headers}
                return self._once(method, url, given, limit, body, patience, within)
            except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
                broken = isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError)
                if left and broken:
                    continue
                why = str(error) or type(error).__name__
                raise OriginUnavailable(f"{shown_uri(url)} can't be reached: {why}") from error

    def _once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        limit: int,
        body: bytes | Iterator[bytes] | None,
        patience: float | None,
        within: Reach,
    ) -> Answer:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = self._client.build_request(
            method,
            f"{parts.scheme}://{parts.netloc}/",
            headers=headers,
            content=body,
            timeout=TIMEOUT if patience is None else httpx2.Timeout(30, connect=10, read=patience),
            # As it stands: httpx2 would write some characters in another way.
            extensions={"target": target.encode("ascii"), "within": within},
        )
        began = time.monotonic()
        response = self._client.send(request, stream=True)
        try:
            content = bytearray()
            for piece in response.iter_raw() if limit else ():
                content += piece
                if len(content) > limit:
                    raise TooLong(
                        f"{shown_uri(url)} is longer than the {limit} bytes that are allowed"
                    )
                if time.monotonic() - began > ANSWER_SECONDS + len(content) / LEAST_RATE:
                    raise OriginUnavailable(f"{shown_uri(url)} sends too slowly")
            reach: Reach = response.extensions["reach"]
            return Answer(response.status_code, response.headers, bytes(content), reach)
        finally:
            response.close()


def _pieces(file: BinaryIO, check: Callable[[], object] | None) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        if check is not None:
            check()
        yield piece
