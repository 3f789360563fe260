"""An HTTPS server for one route, that takes another certificate while it runs."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Any, Final

import structlog

from modelcache.service.endpoints import Answer, text
from modelcache.service.httpserving import Handler, Server, Serving, listen

log = structlog.get_logger(__name__)

MOST_BYTES: Final = 8 * 2**20
"""Of one request. An API server stores no object of more than 1.5 MiB; a review has it twice."""

_HANDSHAKE_SECONDS: Final = 5.0
_QUESTION_SECONDS: Final = 2.0
"""For a request's head, and again for its body: who asked waits no longer for the answer."""

Post = Callable[[bytes], Answer]


class TlsServer(Serving["_Server"]):
    """Answers POST requests to one path."""

    def __init__(self, address: tuple[str, int], path: str, post: Post) -> None:
        """Listen. Connections are closed at once until there is a certificate.

        Raises:
            UsageError: the address can't be had.
        """
        server = listen(address, _Server, _Handler, setting="--listen")
        server.path, server.post = path, post
        super().__init__(server)

    @property
    def has_certificate(self) -> bool:
        """Whether anybody can connect."""
        return self._server.tls is not None

    def show(self, chain: bytes, key: bytes) -> None:
        """Show this certificate to whoever connects from now on. Connections that are there stay.

        Raises:
            ValueError: it can't be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The library reads files only. This one has no name, and is on no disk.
        file = os.memfd_create("certificate")
        try:
            with open(file, "wb", closefd=False) as writing:
                writing.write(chain + b"\n" + key)
            context.load_cert_chain(f"/proc/self/fd/{file}", password="")
        except (ssl.SSLError, OSError) as error:
            raise ValueError(f"the certificate can't be used: {error}") from error
        finally:
            os.close(file)
        self._server.tls = context


class _Server(Server):
    name = "webhook"
    most_connections = 256
    first_seconds = 10.0
    next_seconds = 120.0
    """Longer than an API server keeps an idle connection (90 s): it is to be the one who closes, as
    it can't repeat a request that crosses with our closing."""
    head_seconds = _QUESTION_SECONDS
    path: str
    post: Post
    tls: ssl.SSLContext | None = None

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self.tls is not None and super().verify_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread: nobody else waits for a slow handshake.
        if (tls := self.tls) is None:
            return
        request.settimeout(_HANDSHAKE_SECONDS)
        with (
            tls.wrap_socket(request, server_side=True) as connection,
            self.secured(request, connection),
        ):
            connection.settimeout(None)
            _Handler(connection, client_address, self)


class _Handler(Handler):
    server: _Server

    def do_POST(self) -> None:  # noqa: N802 - the base class's name
        size = self.headers.get("Content-Length", "")
        if self.path.partition("?")[0] != self.server.path:
            self._refuse(text(404, f"only {self.server.path} is here"))
        elif not (size.isascii() and size.isdecimal()):
            self._refuse(text(411, "say how long it is"))
        elif int(size) > MOST_BYTES:
            self._refuse(text(413, f"{size} bytes are too many"))
        else:
            self.server.allow(self.connection, _QUESTION_SECONDS)
            body = self.rfile.read(int(size))
            if len(body) < int(size):
                self.close_connection = True
                return
            self.server.keep(self.connection)
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        try:
            answer = self.server.post(body)
        except Exception:
            # The request's outermost line: the pod is created without us, and the log says why.
            log.exception("webhook.failed")
            answer = text(500, "failed; the webhook's log says why")
        self.send(*answer)

    def _refuse(self, answer: Answer) -> None:
        # What follows was not read: it can't be taken for the next request.
        self.close_connection = True
        self.send(*answer)
