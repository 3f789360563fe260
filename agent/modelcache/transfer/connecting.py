"""Straight connections, to addresses that are not further inside than they may be."""

from __future__ import annotations

import http.client
import ssl

from modelcache.origins.reach import Inside, Reach, reach_of


class Straight(http.client.HTTPConnection):
    """A connection without TLS.

    Attributes:
        reach: how far inside the address is that it was made to.
    """

    def __init__(self, netloc: str, *, timeout: float, inside: Inside, within: Reach) -> None:
        super().__init__(netloc, timeout=timeout)
        self._seconds = timeout
        self._inside = inside
        self._within = within
        self.reach = Reach.INTERNET

    def connect(self) -> None:
        """Connect.

        Raises:
            OriginUnavailable: the host is further inside than it may be.
            OSError
        """
        self.sock = self._inside.connect(self.host, self.port, self._seconds, self._within)
        self.reach = reach_of(str(self.sock.getpeername()[0]))


class StraightTls(Straight):
    """A connection with TLS."""

    default_port = 443

    def __init__(
        self, netloc: str, *, timeout: float, inside: Inside, within: Reach, tls: ssl.SSLContext
    ) -> None:
        super().__init__(netloc, timeout=timeout, inside=inside, within=within)
        self._tls = tls

    def connect(self) -> None:
        """Connect, and begin TLS. Nothing is sent to a host that is too far inside.

        Raises:
            OriginUnavailable: the host is further inside than it may be.
            OSError
        """
        super().connect()
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)
