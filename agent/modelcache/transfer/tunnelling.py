"""TLS through a proxy: CONNECT (RFC 9110, 9.3.6), then as without one."""

from __future__ import annotations

import http.client
import socket
import ssl

from modelcache.origins.proxies import Proxy


class Tunnel(http.client.HTTPSConnection):
    """A connection to an https server that leads through a proxy.

    Not http.client's own tunnel: that tells a refusal by a text only, and before Python 3.12 asks
    in HTTP/1.0 without a Host.

    Attributes:
        reached: whether the proxy was; what fails later is not its fault.
    """

    def __init__(self, netloc: str, proxy: Proxy, *, timeout: float, tls: ssl.SSLContext) -> None:
        super().__init__(netloc, timeout=timeout, context=tls)
        self._proxy = proxy
        self._tls = tls
        self.reached = False

    def connect(self) -> None:
        """Connect to the proxy, have it connect to the server, and begin TLS.

        Raises:
            AuthFailed, OriginUnavailable: the proxy refuses.
            OSError, http.client.HTTPException
        """
        self.sock = socket.create_connection((self._proxy.host, self._proxy.port), self.timeout)
        self.reached = True
        host = f"[{self.host}]" if ":" in self.host else self.host
        target = f"{host}:{self.port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self._proxy.authorization:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        # The server says nothing before TLS begins, so nothing of it is read too far.
        answer = http.client.HTTPResponse(self.sock, method="CONNECT")
        answer.begin()
        if not 200 <= answer.status < 300:
            answer.close()
            raise self._proxy.refusal(answer.status, target)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)
