"""The HTTP client under huggingface_hub, made fit for a daemon.

What huggingface_hub 2.4 does by itself, and what is changed here for requests made `within` an
endpoint (its other users in the process notice nothing):

- the tree is listed without any timeout: here every request has one;
- pages are followed without end, and an answer is read, or unpacked, however long it gets: here
  there are `MAX_REQUESTS`, of `MAX_ANSWER_BYTES` each, and none is compressed;
- a page that is answered 429 or 5xx is asked for again after the server's Retry-After, however
  long, in the calling thread, and a failed connection closes the client that other threads use:
  here the first failure is raised, since the agent's planner is who waits;
- proxies and certificates are chosen by its own reading of the environment: here by `Network`;
- a redirect, and a listing's next page, lead anywhere: here no further inside than the endpoint is;
- the token is sent on to huggingface.co by a mirror's redirect, and to any host that a listing
  names as its next page: here only to the endpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import hf_raise_for_status, is_offline_mode, set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled

from modelcache.errors import OriginUnavailable
from modelcache.origins.network import Network
from modelcache.origins.reach import Reach, reach_of
from modelcache.origins.redirecting import same_origin
from modelcache.origins.transports import NetworkTransport

TIMEOUT: Final = httpx2.Timeout(30, connect=10)
"""Seconds: 10 for a connection, 30 for the next piece of an answer."""

MAX_REQUESTS: Final = 5_000
"""Of one thing that is asked: a page of a list has a thousand files."""
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024

_current: ContextVar[Asking | None] = ContextVar("asking", default=None)


@dataclass
class Asking:
    """Requests that are meant for one endpoint.

    Attributes:
        endpoint: its URL.
        network: how it is reached.
        reach: how far inside it is, as its last answer showed; before, as its name tells.
        count: how many there were.
    """

    endpoint: str
    network: Network
    reach: Reach
    count: int = 0


@contextmanager
def within(endpoint: str, network: Network) -> Iterator[Asking]:
    """Requests of huggingface_hub made in this context are meant for this endpoint.

    Raises:
        OriginUnavailable: no connection, or no answer in time.
        AuthFailed: the proxy wants a password, or lets nobody through.
        OfflineModeIsEnabled: HF_HUB_OFFLINE is set.
        HfHubHTTPError: 408, 429 or 5xx, without being asked for again.
    """
    _install()
    asking = Asking(endpoint, network, reach_of(urlsplit(endpoint).hostname or ""))
    token = _current.set(asking)
    try:
        yield asking
    finally:
        _current.reset(token)


class HubClient(httpx2.Client):
    """The client that all threads share."""

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send one request, as the module's docstring says."""
        if is_offline_mode():
            raise OfflineModeIsEnabled(f"{request.url.host} is not asked in offline mode")
        asking = _current.get()
        if asking is None:
            return super().send(request, **options)
        if not same_origin(str(request.url), asking.endpoint):
            request.headers.pop("Authorization", None)
            request.extensions["within"] = asking.reach
        asking.count += 1
        if asking.count > MAX_REQUESTS:
            raise OriginUnavailable(f"{asking.endpoint} gives a list without an end")
        request.headers["Accept-Encoding"] = "identity"
        request.extensions["timeout"] = TIMEOUT.as_dict()
        try:
            response = super().send(request, **options)
        except httpx2.TransportError as error:
            raise OriginUnavailable(
                f"{request.url.host} can't be reached: {str(error) or type(error).__name__}"
            ) from error
        if response.status_code in (408, 429) or response.status_code >= 500:
            hf_raise_for_status(response)
        return response


@cache
def _install() -> None:
    """Once per process: the factory is huggingface_hub's only, process-wide, hook for a client."""
    set_client_factory(
        lambda: HubClient(
            follow_redirects=True, timeout=None, transport=Paths(), mounts={}, trust_env=False
        )
    )


class Paths(httpx2.BaseTransport):
    """Sends each request the way that the `Network` of its context says. Safe for threads."""

    def __init__(self) -> None:
        self._mutex = Lock()
        self._others = Network()
        self._transports: dict[Network, NetworkTransport] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request."""
        asking = _current.get()
        network = asking.network if asking is not None else self._others
        with self._mutex:
            transport = self._transports.get(network)
            if transport is None:
                transport = self._transports[network] = NetworkTransport(network)
        response = transport.handle_request(request)
        if asking is not None and same_origin(str(request.url), asking.endpoint):
            asking.reach = response.extensions["reach"]
        if asking is not None and request.method != "HEAD":
            _bound(response, asking.endpoint)
        return response

    def close(self) -> None:
        """Close all connections."""
        with self._mutex:
            for transport in self._transports.values():
                transport.close()


def _bound(response: httpx2.Response, endpoint: str) -> None:
    """Let no more of an answer be read than it may have.

    Raises:
        OriginUnavailable: it is compressed, and so of any size.
    """
    if response.headers.get("Content-Encoding", "identity") != "identity":
        response.close()
        raise OriginUnavailable(f"{endpoint} compresses its answers, which was not asked for")
    assert isinstance(response.stream, httpx2.SyncByteStream)
    response.stream = _Bounded(response.stream, endpoint)


class _Bounded(httpx2.SyncByteStream):
    """A body of at most `MAX_ANSWER_BYTES`."""

    def __init__(self, stream: httpx2.SyncByteStream, endpoint: str) -> None:
        self._stream = stream
        self._endpoint = endpoint

    def __iter__(self) -> Iterator[bytes]:
        count = 0
        for piece in self._stream:
            count += len(piece)
            if count > MAX_ANSWER_BYTES:
                raise OriginUnavailable(
                    f"{self._endpoint} gives an answer of more than {MAX_ANSWER_BYTES} bytes"
                )
            yield piece

    def close(self) -> None:
        self._stream.close()
