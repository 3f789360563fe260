"""botocore's own HTTP client, with answers that end.

As botocore 1.44 has it, the head of an answer may have provisional answers (100) without end before
it, and what is read into memory may be of any size.
"""

from __future__ import annotations

from typing import Any, Final

from botocore.awsrequest import AWSHTTPConnection, AWSHTTPSConnection
from botocore.httpsession import URLLib3Session
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from modelcache.origins.bodies import Bounded
from modelcache.origins.heads import Response


class _Plain(AWSHTTPConnection):
    response_class: Any = Response


class _Tls(AWSHTTPSConnection):
    response_class: Any = Response


class _PlainPool(HTTPConnectionPool):
    ConnectionCls: Any = _Plain

    def urlopen(self, *given: Any, **named: Any) -> Any:
        return Bounded(super().urlopen(*given, **named))


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls: Any = _Tls

    def urlopen(self, *given: Any, **named: Any) -> Any:
        return Bounded(super().urlopen(*given, **named))


_POOLS: Final = {"http": _PlainPool, "https": _TlsPool}


class S3Session(URLLib3Session):
    """Sends a client's requests in place of its own session."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._pool_classes_by_scheme = _POOLS  # for proxies, whose managers are made later
        manager: Any = self._manager  # type: ignore[attr-defined]
        manager.pool_classes_by_scheme = _POOLS

    def answer(self, request: Any, **_: Any) -> Any:
        """A handler of the client's `before-send`."""
        return self.send(request)
