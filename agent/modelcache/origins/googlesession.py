"""requests, as Google's SDK uses it, on the way that a `Network` says."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import requests
from google.auth.credentials import Credentials
from google.auth.transport.requests import AuthorizedSession, Request
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from modelcache.origins.bodies import Bounded
from modelcache.origins.heads import Response
from modelcache.origins.network import Network


class _OnTheWay(requests.Session):
    """Its own reading of the environment knows no networks in NO_PROXY."""

    network: Network

    def use(self, network: Network) -> None:
        self.network = network
        self.trust_env = False
        self.verify = network.ca_file

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere: neither Google's API nor its token servers redirect, and whoever did would
        choose whom we ask."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send one request. What is read into memory has a bound."""
        url = str(request.url)
        proxy = self.network.proxy(url)
        options["proxies"] = {urlsplit(url).scheme: proxy.url} if proxy else {}
        streamed = options.pop("stream", False)
        answer = super().send(request, stream=True, **options)
        if not streamed:
            answer.raw = Bounded(answer.raw)
            _ = answer.content  # read now, and kept
        return answer


class _Plain(HTTPConnection):
    response_class = Response


class _Tls(HTTPSConnection):
    response_class = Response


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _Tls


class _Adapter(HTTPAdapter):
    """Connections whose answers have heads that end."""

    def init_poolmanager(self, *given: Any, **named: Any) -> None:
        super().init_poolmanager(*given, **named)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *given: Any, **named: Any) -> Any:
        manager = super().proxy_manager_for(*given, **named)
        manager.pool_classes_by_scheme = _POOLS
        return manager


_POOLS: Final = {"http": _PlainPool, "https": _TlsPool}


class _Authorized(_OnTheWay, AuthorizedSession):
    pass


def open_session(credentials: Credentials, network: Network) -> AuthorizedSession:
    """A session whose requests carry the credentials, and one inside it that gets their tokens."""
    tokens = _OnTheWay()
    tokens.use(network)
    session = _Authorized(credentials, auth_request=Request(tokens))  # type: ignore[no-untyped-call]
    session.use(network)
    for scheme in ("http://", "https://"):
        tokens.mount(scheme, _Adapter(max_retries=3))
        session.mount(scheme, _Adapter())
    return session
