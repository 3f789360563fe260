"""Ranges over HTTP/1.1: connections that are reused, and redirects.

Written on `http.client`, since it reads from the socket straight into our buffers. Everything that
an answer may get wrong is checked (`transfer.answers`); what is handed out is a body whose first
byte is where it says it is.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

from modelcache import __version__
from modelcache.errors import ModelCacheError, OriginUnavailable
from modelcache.origins.heads import Response
from modelcache.origins.network import Network
from modelcache.origins.protocol import HttpLocation
from modelcache.origins.proxies import Proxy
from modelcache.origins.reach import Reach, reach_of
from modelcache.origins.redirecting import REDIRECTS, Hop, redirected
from modelcache.transfer.answers import BROKEN, check, place_of
from modelcache.transfer.cancelling import Cancel
from modelcache.transfer.connecting import Straight, StraightTls
from modelcache.transfer.spending import spending
from modelcache.transfer.tunnelling import Tunnel

_CONNECT_SECONDS = 10.0
_MAX_IDLE_PER_HOST = 16
_LEAST_BYTES = 128 * 1024
"""So many have to come within the time that a connection may be silent."""
_GATHER_SECONDS = 0.1
_Key = tuple[str, str, Reach]
"""Scheme, authority, and how far inside it may be: a connection that is kept is no way around."""


class Body:
    """An answer's body.

    Attributes:
        start: the offset in the file of its first byte: what was asked for, or 0 from a server that
            sends the whole file whatever is asked.
        etag: the entity tag of the answer, if it is a strong one.
        checksums: what the answer says of the checksums of the whole file.
    """

    def __init__(
        self,
        response: http.client.HTTPResponse,
        start: int,
        place: str,
        checksums: Mapping[str, str],
        patience: float,
    ) -> None:
        """`patience`: seconds that 128 KiB may take."""
        self._response = response
        self._patience = patience
        self._waited = 0.0
        self._came = 0
        self._place = place
        self.start = start
        self.checksums = checksums
        etag = response.headers.get("ETag")
        self.etag = etag if etag and not etag.startswith("W/") else None

    def readinto(self, view: memoryview) -> int:
        """Read what has come, but wait for something.

        Returns:
            How many bytes; 0 only at the body's end.

        Raises:
            OriginUnavailable: the connection broke, or nothing, or next to nothing, came for too
                long.
        """
        if self._waited > self._patience:
            raise OriginUnavailable(f"{self._place} sends too slowly")
        began = time.monotonic()
        try:
            count = self._response.readinto(view)
        except TimeoutError as error:
            raise OriginUnavailable(f"{self._place} stopped sending") from error
        except (*BROKEN, ValueError) as error:
            raise OriginUnavailable(f"{self._place} broke off: {error or type(error)}") from error
        self._waited += time.monotonic() - began
        self._came += count
        if self._came >= _LEAST_BYTES:
            self._waited, self._came = 0.0, 0
        return count


class _Response(Response):
    """An answer whose body is read as it comes: as much as there is at once, in one call.

    TLS gives no more than a record of 16 KiB at a time; of these several are gathered, since what
    is done for each call costs more than the reading.
    """

    def __init__(self, sock: socket.socket, *given: Any, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        self._in_records = isinstance(sock, ssl.SSLSocket)

    def readinto(self, buffer: Any) -> int:
        """As the base class, but it doesn't go on until the buffer is full."""
        if self.fp is None or self.chunked or self.length is None:
            return super().readinto(buffer)
        view = memoryview(buffer)[: self.length]
        count = self.fp.readinto1(view)
        if self._in_records:
            count = self._gather(view, count)
        self.length -= count
        if self.length == 0:
            super().readinto(bytearray())  # notes the end, and leaves the connection free
        return count

    def _gather(self, view: memoryview, count: int) -> int:
        """Read more records as long as they come quickly.

        What came before an error is given out: a broken connection fails the next call, too.
        """
        assert self.fp is not None
        ends = time.monotonic() + _GATHER_SECONDS
        enough = min(len(view), _LEAST_BYTES)
        while 0 < count < enough and time.monotonic() < ends:
            more = 0
            with suppress(OSError):
                more = self.fp.readinto1(view[count:])
            if not more:
                break
            count += more
        return count


class HttpClient:
    """Sends GETs. Safe for threads; connections are kept and reused."""

    def __init__(self, network: Network | None = None, *, read_timeout: float = 20.0) -> None:
        """Connect to nothing yet.

        Args:
            network: proxies and trusted certificates; by default as the environment says.
            read_timeout: seconds of silence after which a connection is given up; likewise where
                next to nothing comes.
        """
        self._network = network or Network()
        self._read_timeout = read_timeout
        self._mutex = threading.Lock()
        self._idle: dict[_Key, list[http.client.HTTPConnection]] = {}

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._mutex:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()

    @contextmanager
    def get(
        self, location: HttpLocation, start: int, end: int, size: int, cancel: Cancel
    ) -> Iterator[Body]:
        """Ask for the bytes from `start` to before `end` of a file of `size` bytes.

        Raises:
            LocationExpired, AuthFailed, NotFound, OriginChanged, RateLimited, OriginUnavailable,
            Cancelled
        """
        headers = {
            "User-Agent": f"model-cache-agent/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }
        if (start, end) != (0, size):
            headers["Range"] = f"bytes={start}-{end - 1}"
        # Conditions are no secret, and who sends the bytes in the end has to know them.
        if location.if_match:
            headers["If-Match"] = location.if_match
        if location.unmodified_since:
            headers["If-Unmodified-Since"] = location.unmodified_since
        hop = Hop(location.url, within=location.within)
        while True:
            url = urlsplit(hop.url)
            sent = {**headers, **location.headers} if hop.private else headers
            with self._exchange(url, sent, hop.within, cancel) as (response, reach):
                if response.status not in REDIRECTS:
                    place = place_of(url)
                    offset = check(response, location, place, start, end, size)
                    told: Mapping[str, str] = {}
                    if location.checksums_of is not None and "Range" not in headers:
                        lowered = {name.lower(): value for name, value in response.headers.items()}
                        told = location.checksums_of(lowered)
                    yield Body(response, offset, place, told, self._read_timeout)
                    return
                # The body of a redirect is short; reading it lets the connection be reused.
                with suppress(*BROKEN):
                    response.read(64 * 1024)
                hop = redirected(
                    hop,
                    response.headers.get("Location"),
                    pinned=not location.is_tagged,
                    reach=reach,
                )

    @contextmanager
    def _exchange(
        self, url: SplitResult, headers: Mapping[str, str], within: Reach, cancel: Cancel
    ) -> Iterator[tuple[http.client.HTTPResponse, Reach]]:
        key = (url.scheme, url.netloc, within)
        place = place_of(url)
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        proxy = self._network.proxy(f"{url.scheme}://{url.netloc}")
        if proxy is not None:
            self._network.inside.check(url.hostname or "", None, within)
        if proxy is not None and url.scheme == "http":
            # RFC 9112, 3.2.2: a proxy is asked for the whole URL.
            target = f"{url.scheme}://{url.netloc}{target}"
            if proxy.authorization:
                headers = {**headers, "Proxy-Authorization": proxy.authorization}
        while True:
            cancel.check()
            connection, reused = self._take(key, proxy)
            who = f"the proxy {proxy}" if proxy is not None and not reused else place
            with cancel.calling(lambda c=connection: _abort(c)):  # type: ignore[misc]
                try:
                    with spending("origin"):
                        if connection.sock is None:
                            connection.connect()
                            who = place
                            assert connection.sock is not None
                            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                            connection.sock.settimeout(self._read_timeout)
                        connection.request("GET", target, headers=dict(headers))
                        response = connection.getresponse()
                except BROKEN as error:
                    if isinstance(connection, Tunnel) and connection.reached:
                        who = place
                    connection.close()
                    cancel.check()
                    if reused and not isinstance(error, TimeoutError):
                        continue  # the server had closed an idle connection
                    raise OriginUnavailable(f"{who} can't be reached: {_why(error)}") from error
                except ModelCacheError:
                    connection.close()
                    cancel.check()
                    raise
                try:
                    reach = reach_of(url.hostname or "")
                    if isinstance(connection, Straight):
                        reach = connection.reach
                    yield response, reach
                except ModelCacheError:
                    cancel.check()  # the connection broke because it was cancelled
                    raise
                finally:
                    self._give_back(key, connection, response)
            return

    def _take(self, key: _Key, proxy: Proxy | None) -> tuple[http.client.HTTPConnection, bool]:
        with self._mutex:
            if self._idle.get(key):
                return self._idle[key].pop(), True
        connection = self._connection(*key, proxy)
        connection.response_class = _Response
        return connection, False

    def _connection(
        self, scheme: str, netloc: str, within: Reach, proxy: Proxy | None
    ) -> http.client.HTTPConnection:
        tls, inside, timeout = self._network.tls, self._network.inside, _CONNECT_SECONDS
        if scheme == "https" and proxy is not None:
            return Tunnel(netloc, proxy, timeout=timeout, tls=tls)
        if scheme == "https":
            return StraightTls(netloc, timeout=timeout, inside=inside, within=within, tls=tls)
        if proxy is not None:
            return http.client.HTTPConnection(proxy.host, proxy.port, timeout=timeout)
        return Straight(netloc, timeout=timeout, inside=inside, within=within)

    def _give_back(
        self,
        key: _Key,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
    ) -> None:
        if response.isclosed() and not response.will_close and connection.sock is not None:
            with self._mutex:
                idle = self._idle.setdefault(key, [])
                if len(idle) < _MAX_IDLE_PER_HOST:
                    idle.append(connection)
                    return
        response.close()
        connection.close()


def _abort(connection: http.client.HTTPConnection) -> None:
    if connection.sock is not None:
        with suppress(OSError):
            # Not SSLSocket's own: that ends the decryption at once, and a thread that is reading
            # would get what lies in the kernel's buffer as it is, as if it were the file.
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "its name can't be resolved"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); if a CA of your own signs,"
            " give that CA's certificate with --ca-bundle"
        )
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)
