"""A reverse proxy on loopback in front of an API server, that makes faults.

Everything else passes through it at once, streams too. What was asked is counted.
"""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

_STATUS_REASONS = {
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(frozen=True)
class Request:
    """One that came."""

    method: str
    path: str
    query: dict[str, str]
    at: float

    @property
    def watch(self) -> bool:
        """Whether it asks for a stream."""
        return self.query.get("watch") == "true"

    def fits(self, watch: bool | None, method: str | None, path: str) -> bool:
        """Whether it is (no) watch, has this method, and a path with this expression in it."""
        return (
            (watch is None or self.watch == watch)
            and (method is None or self.method == method)
            and re.search(path, self.path) is not None
        )


class Fault:
    """What happens instead of what was asked for. Passes everything through, as it is."""

    def answer(self, handler: _Handler) -> bool:
        """Answer a request; whether that was it."""
        return False

    def stream(self, lines: list[bytes]) -> list[bytes] | None:
        """What is passed on of a stream's lines so far; None after it: cut the connection there."""
        return lines


@dataclass
class Refuse(Fault):
    """An error, as the API server says one; `page` instead: as a proxy does."""

    status: int
    reason: str = ""
    message: str = "made by the test"
    retry_after: int | None = None
    page: str | None = None

    def answer(self, handler: _Handler) -> bool:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.page is not None:
            handler.say(self.status, self.page.encode(), {"Content-Type": "text/html", **headers})
        else:
            handler.say(self.status, json.dumps(self.document()).encode(), headers)
        return True

    def document(self) -> dict[str, Any]:
        """The Status object."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": self.message,
            "reason": self.reason or _STATUS_REASONS.get(self.status, ""),
            "code": self.status,
        }


@dataclass
class Say(Fault):
    """A body of one's own, with status 200."""

    body: bytes

    def answer(self, handler: _Handler) -> bool:
        handler.say(200, self.body)
        return True


@dataclass
class Stream(Fault):
    """A watch that says these lines, and then ends; `hangs`: stays open instead; `cut`: without
    the end that belongs to a stream."""

    lines: tuple[bytes, ...] = ()
    hangs: bool = False
    cut: bool = False

    def answer(self, handler: _Handler) -> bool:
        handler.begin_stream()
        for line in self.lines:
            handler.send_chunk(line)
        if self.hangs:
            handler.faults.ending.wait()
        if not self.cut:
            handler.send_chunk(b"")
        handler.close_connection = True
        return True


def error_event(status: int, message: str = "made by the test") -> Stream:
    """A watch that says at once that it can't go on."""
    document = Refuse(status, message=message).document()
    return Stream((json.dumps({"type": "ERROR", "object": document}).encode() + b"\n",))


class EmptyList(Fault):
    """A list without objects, with the resource version that the server gives."""

    def answer(self, handler: _Handler) -> bool:
        status, headers, body = handler.ask_upstream()
        if status == 200:
            found = json.loads(body)
            found["items"] = []
            body = json.dumps(found).encode()
        handler.say(status, body, {"Content-Type": headers["Content-Type"]})
        return True


class Hang(Fault):
    """No answer, until the proxy ends or the client goes."""

    def answer(self, handler: _Handler) -> bool:
        handler.faults.ending.wait()
        handler.close_connection = True
        return True


class Swallow(Fault):
    """What is asked is done, and the answer never comes."""

    def answer(self, handler: _Handler) -> bool:
        handler.ask_upstream()
        handler.close_connection = True
        return True


class Close(Fault):
    """The connection is closed without an answer."""

    def answer(self, handler: _Handler) -> bool:
        handler.close_connection = True
        return True


@dataclass
class CutAfter(Fault):
    """A stream is passed on up to so many events; then half an event, and the connection ends."""

    events: int

    def stream(self, lines: list[bytes]) -> list[bytes] | None:
        if len(lines) <= self.events:
            return lines
        return None


@dataclass
class _Rule:
    fault: Fault
    fits: Callable[[Request], bool]
    left: float


class ApiFaults:
    """The proxy. As a context manager it serves; `url` is where."""

    def __init__(
        self,
        upstream: str,
        ca: Path | None = None,
        *,
        certificate: tuple[Path, Path] | None = None,
        clients: Path | None = None,
    ) -> None:
        """`ca` vouches for an upstream with TLS; `certificate` and its key are shown to clients;
        `clients` vouches for theirs, which they must have then."""
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        self.upstream = (parts.hostname, parts.port or 443)
        self.context = ssl.create_default_context(cafile=str(ca)) if ca else None
        self.ending = threading.Event()
        self._mutex = threading.Lock()
        self._rules: list[_Rule] = []
        self._requests: list[Request] = []
        self._streams: set[socket.socket] = set()
        self._certificate = certificate
        self._clients = clients
        self._server: _Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"{'https' if self._certificate else 'http'}://127.0.0.1:{self.port}"

    def kubeconfig(self, original: Path, to: Path) -> Path:
        """A kubeconfig like another one, but by way of this proxy."""
        document = json.loads(original.read_text())
        document["clusters"][0]["cluster"]["server"] = self.url
        to.write_text(json.dumps(document))
        return to

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ending.set()
        self.down()

    def up(self) -> None:
        """Serve, on the same port as before."""
        context: ssl.SSLContext | None = None
        if self._certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._certificate)
            if self._clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self._clients)
        self._server = _Server(("127.0.0.1", self.port), self, context)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        """Be gone: streams are cut, connections are refused."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        self.cut()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Be gone, for a while."""
        self.down()
        try:
            yield
        finally:
            self.up()

    def cut(self) -> None:
        """Cut all connections, in the middle of whatever comes."""
        with self._mutex:
            streams = list(self._streams)
        for stream in streams:
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def on(
        self,
        fault: Fault,
        *,
        times: float = float("inf"),
        watch: bool | None = None,
        method: str | None = None,
        path: str = "",
        when: Callable[[Request], bool] = lambda _: True,
    ) -> None:
        """Have a fault for requests that fit: so often; watches or others; with this method; whose
        path fits a regular expression somewhere. The first that fits is taken."""

        def fits(request: Request) -> bool:
            return request.fits(watch, method, path) and when(request)

        with self._mutex:
            self._rules.append(_Rule(fault, fits, times))

    def well(self) -> None:
        """No more faults."""
        with self._mutex:
            self._rules.clear()

    def requests(
        self, *, watch: bool | None = None, method: str | None = None, path: str = ""
    ) -> list[Request]:
        """The requests that came, that fit."""
        with self._mutex:
            return [each for each in self._requests if each.fits(watch, method, path)]

    def forget(self) -> None:
        """Count from here."""
        with self._mutex:
            self._requests.clear()

    # For the handler

    def came(self, request: Request) -> Fault:
        """Count a request; what is to happen."""
        with self._mutex:
            self._requests.append(request)
            for rule in self._rules:
                if rule.left > 0 and rule.fits(request):
                    rule.left -= 1
                    return rule.fault
        return Fault()

    def connected(self, connection: socket.socket) -> None:
        with self._mutex:
            self._streams.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        with self._mutex:
            self._streams.discard(connection)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        faults: ApiFaults,
        context: ssl.SSLContext | None,
    ) -> None:
        super().__init__(address, _Handler)
        self.faults = faults
        self.context = context

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(None)
        if self.context is not None:
            # The handshake is made with the first read, in the connection's own thread.
            connection = self.context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._upstream: http.client.HTTPConnection | None = None
        self._body = b""
        self.faults.connected(self.connection)

    def finish(self) -> None:
        self.faults.disconnected(self.connection)
        self._close_upstream()
        with suppress(OSError):
            super().finish()

    @property
    def faults(self) -> ApiFaults:
        return self.server.faults

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Nothing."""

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _handle(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        fault = self.faults.came(Request(self.command, parts.path, query, time.monotonic()))
        if fault.answer(self):
            return
        if query.get("watch") == "true":
            self._pass_stream(fault)
        else:
            status, headers, body = self.ask_upstream()
            self.say(status, body, headers)

    # Downstream

    def say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """A whole answer."""
        self.send_response(status)
        wanted = {"Content-Type": "application/json", **(headers or {})}
        for name, value in {**wanted, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self) -> None:
        """The head of a stream."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_chunk(self, content: bytes) -> None:
        """A chunk; the empty one is the last."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
        self.wfile.flush()

    # Upstream

    def ask_upstream(self) -> tuple[int, dict[str, str], bytes]:
        """The real answer, whole."""
        answer = self._ask()
        with answer:
            body = answer.read()
        self._close_upstream()
        kept = ("Content-Type", "Retry-After")
        return answer.status, {k: v for k in kept if (v := answer.headers.get(k))}, body

    def _close_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.close()

    def _ask(self) -> http.client.HTTPResponse:
        host, port = self.faults.upstream
        if self.faults.context is not None:
            context = self.faults.context
            self._upstream = http.client.HTTPSConnection(host, port, context=context)
        else:
            self._upstream = http.client.HTTPConnection(host, port)
        dropped = ("host", "connection", "accept-encoding")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        self._upstream.request(self.command, self.path, self._body or None, headers)
        return self._upstream.getresponse()

    def _pass_stream(self, fault: Fault) -> None:
        with self._ask() as answer:
            if answer.status != 200:
                self.say(answer.status, answer.read())
                return
            self.begin_stream()
            over = threading.Event()
            threading.Thread(target=self._end_with_client, args=(over,), daemon=True).start()
            try:
                self._pass_lines(answer, fault)
            except (OSError, ValueError, AttributeError, http.client.HTTPException):
                self.close_connection = True
            finally:
                over.set()
                self._close_upstream()

    def _pass_lines(self, answer: http.client.HTTPResponse, fault: Fault) -> None:
        lines: list[bytes] = []
        while line := answer.readline():
            lines.append(line)
            if fault.stream(lines) is None:
                self.wfile.write(b"%x\r\n%b" % (len(line), line[: len(line) // 2]))
                self.close_connection = True
                return
            self.send_chunk(line)
        self.send_chunk(b"")

    def _end_with_client(self, over: threading.Event) -> None:
        """A stream whose reader has gone is ended upstream too."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        while not over.is_set() and not poll.poll(100):
            pass
        sock = self._upstream.sock if self._upstream is not None else None
        if sock is not None and not over.is_set():
            with suppress(OSError, ValueError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
