"""A proxy for tests: CONNECT, and absolute URLs for http; with a password if one is wanted.

It knows names that no resolver knows: who reaches `hub.test` came through it.
"""

from __future__ import annotations

import base64
import http.client
import select
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit


class ProxyServer:
    """A proxy on loopback.

    Attributes:
        requests: method and target of each request, also of those that it refused.
        logins: what each sent as Proxy-Authorization.
    """

    def __init__(
        self,
        names: Mapping[str, int],
        *,
        login: str | None = None,
        refuses: int | None = None,
    ) -> None:
        """Serve.

        Args:
            names: the port on loopback that stands behind each host name, whatever port is asked.
            login: `user:password` that it wants.
            refuses: the status with which it answers everything.
        """
        self.requests: list[str] = []
        self.logins: list[str | None] = []
        self._server = _Server(self, names, login, refuses)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.address}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        proxy: ProxyServer,
        names: Mapping[str, int],
        login: str | None,
        refuses: int | None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy, self.names, self.refuses = proxy, names, refuses
        self.login = f"Basic {base64.b64encode(login.encode()).decode()}" if login else None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_CONNECT(self) -> None:
        if self._is_refused():
            return
        host, _, _ = self.path.rpartition(":")
        port = self.server.names.get(host)
        if port is None:
            self._answer(502)
            return
        with socket.create_connection(("127.0.0.1", port), 5) as other:
            self.send_response(200, "Connection established")
            self.end_headers()
            _pass_on(self.connection, other)
        self.close_connection = True

    def do_GET(self) -> None:
        if self._is_refused():
            return
        url = urlsplit(self.path)
        port = self.server.names.get(url.hostname or "")
        if port is None:
            self._answer(502)
            return
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "proxy-authorization"}
        target = url._replace(scheme="", netloc="").geturl()
        connection.request(self.command, target, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        connection.close()

    do_HEAD = do_GET  # noqa: N815 - the base class's way

    def _is_refused(self) -> bool:
        login = self.headers.get("Proxy-Authorization")
        self.server.proxy.requests.append(f"{self.command} {self.path}")
        self.server.proxy.logins.append(login)
        if self.server.refuses is not None:
            self._answer(self.server.refuses)
        elif self.server.login not in (None, login):
            self._answer(407, {"Proxy-Authenticate": 'Basic realm="test"'})
        else:
            return False
        return True

    def _answer(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        """Say nothing."""


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    """Both ways, until either side ends."""
    while True:
        ready, _, _ = select.select([one, other], [], [], 10)
        for source in ready:
            data = source.recv(1 << 16)
            if not data:
                return
            (other if source is one else one).sendall(data)
        if not ready:
            return
