"""requests, as Google's SDK uses it, on the way that a `Network` says."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import requests
from google.auth.credentials import Credentials
from google.auth.transport.requests import AuthorizedSession, Request
from requests.adapters import HTTPAdapter

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
        """Send one request."""
        url = str(request.url)
        proxy = self.network.proxy(url)
        options["proxies"] = {urlsplit(url).scheme: proxy.url} if proxy else {}
        return super().send(request, **options)


class _Authorized(_OnTheWay, AuthorizedSession):
    pass


def open_session(credentials: Credentials, network: Network) -> AuthorizedSession:
    """A session whose requests carry the credentials, and one inside it that gets their tokens."""
    tokens = _OnTheWay()
    tokens.use(network)
    tokens.mount("https://", HTTPAdapter(max_retries=3))
    session = _Authorized(credentials, auth_request=Request(tokens))  # type: ignore[no-untyped-call]
    session.use(network)
    return session
