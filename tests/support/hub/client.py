"""The plainest client: one request on one connection, no redirects, no retries, no judgement."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """What came back; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@contextlib.contextmanager
def opened(url: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """The answer to a GET with its body still to be read; ``If_Match`` is sent as ``If-Match``.

    With TLS the authorities are Python's own, so those of SSL_CERT_FILE.
    """
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    kind = http.client.HTTPSConnection if tls else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=10)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", f"{parts.path}?{parts.query}", headers=names)
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


def get(url: str, **headers: str) -> Answer:
    """The answer to a GET, whole."""
    with opened(url, **headers) as response:
        lowered = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, lowered, response.read())
