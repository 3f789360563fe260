"""Whether the engine serves: seen from beside it, in the same pod, by the URL that its probe asks.

Engines compile before they serve, so what is ready has compiled all that its start needs.
"""

from __future__ import annotations

import http.client
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from modelcache.errors import UsageError
from modelcache.transfer.cancelling import Cancel

_ASK_SECONDS: Final = 2.0
_LOCAL: Final = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Serving:
    """By what an engine says that it serves.

    Attributes:
        scheme: http or https.
        port: where it listens.
        target: what is asked for.
        hosts: where it may listen, one after the other.
    """

    scheme: str
    port: int
    target: str
    hosts: tuple[str, ...]

    @classmethod
    def of(cls, url: str, own_address: str = "") -> Serving:
        """Of a URL without a host: `http://:8000/health`.

        Args:
            url: it.
            own_address: the pod's, for engines that listen there alone.

        Raises:
            UsageError: it is no such URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            port = None
        if not port or parts.scheme not in ("http", "https") or parts.hostname or parts.username:
            raise UsageError(f"{url[:80]!r} is not written http://:8000/health")
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        hosts = dict.fromkeys([*_LOCAL, *([own_address] if own_address else [])])
        return cls(parts.scheme, port, target, tuple(hosts))

    def look(self) -> bool:
        """Whether it serves now, as kubelet's probes take it: any answer of 200 to 399."""
        return any(self._serves_at(host) for host in self.hosts)

    def wait(self, cancel: Cancel, *, every: float, seconds: float) -> bool:
        """Wait until it serves, at most so long; whether it does.

        Raises:
            Cancelled
        """
        looks = max(1, int(seconds / every))
        for _ in range(looks):
            if self.look():
                return True
            cancel.wait(every)
        return self.look()

    def _serves_at(self, host: str) -> bool:
        connection = self._connection(host)
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", self.target, headers={"Connection": "close"})
            status = connection.getresponse().status
            connection.close()
            return 200 <= status <= 399
        connection.close()
        return False

    def _connection(self, host: str) -> http.client.HTTPConnection:
        if self.scheme == "http":
            return http.client.HTTPConnection(host, self.port, timeout=_ASK_SECONDS)
        # Not verified, as kubelet doesn't: the certificate is for other names.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(host, self.port, timeout=_ASK_SECONDS, context=context)
