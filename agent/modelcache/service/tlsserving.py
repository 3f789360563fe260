"""An HTTPS server for one route, that takes another certificate while it runs."""

from __future__ import annotations

import os
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import structlog

from modelcache.errors import UsageError
from modelcache.service.endpoints import Answer, host_and_port, text

log = structlog.get_logger(__name__)

MOST_BYTES: Final = 8 * 2**20
"""Of one request. An API server stores no object of more than 1.5 MiB; a review has it twice."""

_MOST_CONNECTIONS: Final = 256
_HANDSHAKE_SECONDS: Final = 5.0
_FIRST_SECONDS: Final = 10.0
"""Until who has connected asks something."""
_BODY_SECONDS: Final = 2.0
"""For all of a request's body: who asked waits no longer for the answer."""
_IDLE_SECONDS: Final = 120.0
"""Longer than an API server keeps an idle connection (90 s): it is to be the one who closes, as it
can't repeat a request that crosses with our closing."""

Post = Callable[[bytes], Answer]


class TlsServer:
    """Answers POST requests to one path, in threads of its own."""

    def __init__(self, address: tuple[str, int], path: str, post: Post) -> None:
        """Listen. Connections are closed at once until there is a certificate.

        Raises:
            UsageError: the address can't be had.
        """
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        server_class = type("_FamilyServer", (_Server,), {"address_family": family})
        try:
            self._server: _Server = server_class(address, _Handler)
        except OSError as error:
            raise UsageError(
                f"can't listen on {host_and_port(address)}: {error.strerror or error}; set --listen"
            ) from error
        self._server.path, self._server.post = path, post
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="webhook", daemon=True
        )

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port that was given for port 0."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

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

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    path: str
    post: Post

    def __init__(self, *arguments: Any) -> None:
        self.tls: ssl.SSLContext | None = None
        self._room = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(*arguments)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the DNS for this host's name, and waits where nobody answers.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        return self.tls is not None

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread: nobody else waits for a slow handshake.
        tls = self.tls
        if tls is None or not self._room.acquire(blocking=False):
            return
        try:
            request.settimeout(_HANDSHAKE_SECONDS)
            with tls.wrap_socket(request, server_side=True) as connection:
                _Handler(connection, client_address, self)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("webhook.connection.broken", client=str(client_address), exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    server_version = "modelcache"
    sys_version = ""
    timeout = _FIRST_SECONDS
    # An answer is one packet, and is not to wait for another.
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if self.path.partition("?")[0] != self.server.path:
            self._refuse(text(404, f"only {self.server.path} is here"))
        elif not (size.isascii() and size.isdecimal()):
            self._refuse(text(411, "say how long it is"))
        elif int(size) > MOST_BYTES:
            self._refuse(text(413, f"{size} bytes are too many"))
        else:
            body = self._body(int(size))
            if len(body) < int(size):
                self.close_connection = True
                return
            self._answer(body)
            self.connection.settimeout(_IDLE_SECONDS)

    def _body(self, size: int) -> bytes:
        """The body, or as much of it as comes before the other side closes.

        Raises:
            TimeoutError: it doesn't come in time, which ends the connection.
        """
        deadline = time.monotonic() + _BODY_SECONDS
        body = bytearray()
        while len(body) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.connection.settimeout(left)
            part = self.rfile.read1(size - len(body))
            if not part:
                break
            body += part
        return bytes(body)

    def _answer(self, body: bytes) -> None:
        try:
            answer = self.server.post(body)
        except Exception:
            # The request's outermost line: the pod is created without us, and the log says why.
            log.exception("webhook.failed")
            answer = text(500, "failed; the webhook's log says why")
        self._send(answer)

    def _refuse(self, answer: Answer) -> None:
        # What follows was not read: it can't be taken for the next request.
        self.close_connection = True
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        status, kind, body = answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        log.debug("webhook.request", line=format % args)
