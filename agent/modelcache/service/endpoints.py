"""The agent's HTTP endpoints: /livez, /readyz, /metrics, /v1/node."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog

from modelcache.errors import UsageError

log = structlog.get_logger(__name__)

Answer = tuple[int, str, bytes]
"""Status, content type, body."""

Route = Callable[[], Answer]


def text(status: int, message: str) -> Answer:
    """An answer of one line."""
    return status, "text/plain; charset=utf-8", message.encode() + b"\n"


def document(content: dict[str, Any]) -> Answer:
    """An answer in JSON."""
    return 200, "application/json", json.dumps(content).encode() + b"\n"


def host_and_port(address: tuple[str, int]) -> str:
    """`127.0.0.1:8080` or `[::1]:8080`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    routes: dict[str, Route]

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the DNS for this host's name, and waits where nobody answers.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("http.broken", client=str(client_address))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    server_version = "modelcache"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        route = self.server.routes.get(path)
        if route is None:
            known = ", ".join(sorted(self.server.routes))
            self._send(text(404, f"{path} is not here; there are {known}"))
            return
        try:
            answer = route()
        except Exception:
            # The request's outermost line: who asks is told, and so is who reads the log.
            log.exception("http.failed", path=path)
            answer = text(500, "failed; the agent's log says why")
        self._send(answer)

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def _send(self, answer: Answer) -> None:
        status, kind, body = answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        log.debug("http.request", line=format % args)


class Endpoints:
    """A server for a few routes, in threads of its own."""

    def __init__(self, address: tuple[str, int], routes: dict[str, Route]) -> None:
        """Listen.

        Raises:
            UsageError: the address can't be had.
        """
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        server_class = type("_FamilyServer", (_Server,), {"address_family": family})
        try:
            self._server = server_class(address, _Handler)
        except OSError as error:
            raise UsageError(
                f"can't listen on {host_and_port(address)}: {error.strerror or error}; set --listen"
            ) from error
        self._server.routes = routes
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="endpoints", daemon=True
        )

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port that was given for port 0."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
