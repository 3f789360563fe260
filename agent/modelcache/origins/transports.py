"""httpx2 on the way that a `Network` says.

How far inside a request's host may be is its extension `within` (a `Reach`; by default anywhere),
and how far inside the one is that answered is its answer's extension `reach`. Where the answer is a
redirect the request's `within` becomes that, which httpx2 hands on to the next one.
"""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Iterable
from threading import Lock
from typing import Any

import httpcore2
import httpx2

from modelcache.origins.heads import Allowance
from modelcache.origins.network import Network
from modelcache.origins.proxies import Proxy
from modelcache.origins.reach import ANYWHERE, Inside, Reach, reach_of


class NetworkTransport(httpx2.BaseTransport):
    """For a client of httpx2, with `trust_env=False`. Safe for threads."""

    def __init__(self, network: Network, limits: httpx2.Limits | None = None) -> None:
        """`limits` are those of each way: the straight one, and that through each proxy."""
        self._network = network
        self._options: dict[str, Any] = {"limits": limits} if limits else {}
        self._mutex = Lock()
        self._ways: dict[tuple[Proxy | None, Reach], httpx2.HTTPTransport] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request.

        Raises:
            AuthFailed, OriginUnavailable: a proxy refuses it.
            OriginUnavailable: its host is further inside than it may be.
        """
        url = str(request.url)
        proxy = self._network.proxy(url)
        within: Reach = request.extensions.get("within", ANYWHERE)
        if proxy is not None:
            self._network.inside.check(request.url.host, None, within)
        request.extensions["trace"] = _trace
        try:
            response = self._way(proxy, within).handle_request(request)
        except httpx2.ProxyError as error:
            refusal = self._network.refusal(url, str(error))
            if refusal is None:
                raise
            raise refusal from error
        if proxy is not None and response.status_code == 407:
            # Without a tunnel its refusal looks like the server's answer.
            response.close()
            raise proxy.refusal(407, request.url.host)
        reach = _reach(request, response, proxy)
        response.extensions["reach"] = reach
        if response.has_redirect_location:
            request.extensions["within"] = reach
        return response

    def _way(self, proxy: Proxy | None, within: Reach) -> httpx2.HTTPTransport:
        # Ways of their own: a connection that is kept may lead further inside than another may.
        key = proxy, within
        with self._mutex:
            if key not in self._ways:
                way = self._ways[key] = httpx2.HTTPTransport(
                    verify=self._network.tls,
                    proxy=proxy.url if proxy else None,
                    trust_env=False,
                    **self._options,
                )
                backend = _Straight()
                if proxy is None and within < ANYWHERE:
                    backend = _Within(self._network.inside, within)
                # httpcore2's pool takes it as an argument; httpx2 doesn't hand one on.
                way._pool._network_backend = backend  # noqa: SLF001
            return self._ways[key]

    def close(self) -> None:
        """Close all connections."""
        with self._mutex:
            for way in self._ways.values():
                way.close()


class _Heads(threading.local):
    """Whose head this thread reads at the moment."""

    allowance: Allowance | None = None


_heads = _Heads()


def _trace(event: str, _: object) -> None:
    """httpcore2 tells of each step: https://www.encode.io/httpcore/extensions/#trace"""
    if event.endswith(".receive_response_headers.started"):
        _heads.allowance = Allowance()
    elif ".receive_response_headers." in event:
        _heads.allowance = None


class _Stream(httpcore2.NetworkStream):
    """A connection from which no head is read for ever."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        allowance = _heads.allowance
        if allowance is None:
            return self._stream.read(max_bytes, timeout)
        try:
            allowance.check()
            piece = self._stream.read(max_bytes, timeout)
            allowance.take(len(piece))
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        except http.client.HTTPException as error:
            raise httpcore2.RemoteProtocolError(str(error)) from error
        return piece

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Straight(httpcore2.SyncBackend):
    """Connections anywhere."""

    def connect_tcp(self, *given: Any, **named: Any) -> httpcore2.NetworkStream:
        return _Stream(super().connect_tcp(*given, **named))


class _Within(_Straight):
    """Connections to addresses that are not too far inside."""

    def __init__(self, inside: Inside, within: Reach) -> None:
        self._inside = inside
        self._within = within

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first address that answers."""
        failure: Exception = httpcore2.ConnectError("the name has no addresses")
        try:
            addresses = self._inside.addresses(host, port, self._within)
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        for address in addresses:
            try:
                return super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


def _reach(request: httpx2.Request, response: httpx2.Response, proxy: Proxy | None) -> Reach:
    """How far inside the host is that answered."""
    if proxy is not None:
        return reach_of(request.url.host)
    peer = response.extensions["network_stream"].get_extra_info("server_addr")
    return reach_of(str(peer[0]))
