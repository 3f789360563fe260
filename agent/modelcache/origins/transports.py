"""httpx2 on the way that a `Network` says."""

from __future__ import annotations

from threading import Lock
from typing import Any

import httpx2

from modelcache.origins.network import Network
from modelcache.origins.proxies import Proxy


class NetworkTransport(httpx2.BaseTransport):
    """For a client of httpx2, with `trust_env=False`. Safe for threads."""

    def __init__(self, network: Network, limits: httpx2.Limits | None = None) -> None:
        """`limits` are those of each way: the straight one, and that through each proxy."""
        self._network = network
        self._options: dict[str, Any] = {"limits": limits} if limits else {}
        self._mutex = Lock()
        self._ways: dict[Proxy | None, httpx2.HTTPTransport] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request.

        Raises:
            AuthFailed, OriginUnavailable: a proxy refuses it.
        """
        url = str(request.url)
        proxy = self._network.proxy(url)
        try:
            response = self._way(proxy).handle_request(request)
        except httpx2.ProxyError as error:
            refusal = self._network.refusal(url, str(error))
            if refusal is None:
                raise
            raise refusal from error
        if proxy is not None and response.status_code == 407:
            # Without a tunnel its refusal looks like the server's answer.
            response.close()
            raise proxy.refusal(407, request.url.host)
        return response

    def _way(self, proxy: Proxy | None) -> httpx2.HTTPTransport:
        with self._mutex:
            if proxy not in self._ways:
                self._ways[proxy] = httpx2.HTTPTransport(
                    verify=self._network.tls,
                    proxy=proxy.url if proxy else None,
                    trust_env=False,
                    **self._options,
                )
            return self._ways[proxy]

    def close(self) -> None:
        """Close all connections."""
        with self._mutex:
            for way in self._ways.values():
                way.close()
