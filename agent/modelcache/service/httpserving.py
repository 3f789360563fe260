"""What our HTTP servers have in common: bounded connections, heads and waiting, and a quick end.

Any pod may reach them. So each has room for so many connections; whoever keeps us waiting has a
deadline that trickling doesn't move; and where there is no room, the newest comes in: the address
with the most connections loses the one that we have waited for longest. No fixed share of one
address would do: behind a hostPort all pods of a node may have one address between them, and where
one pod may hold that share, the others wait for it. So a hostile pod has to open connections faster
than others ask, and holds up nobody by keeping them. What we work on is never ended so.
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final, Generic, TypeVar

import structlog

from modelcache.errors import UsageError

log = structlog.get_logger(__name__)

MAX_HEAD_BYTES: Final = 96 * 1024
"""Of a request line with all headers: `http.client` takes a hundred headers of 64 KiB each, and ten
times as much memory to read them. A capture's header may have 64 KiB."""


def host_and_port(address: tuple[str, int]) -> str:
    """`127.0.0.1:8080` or `[::1]:8080`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(slots=True)
class _Connection:
    """One that is open."""

    host: str
    socket: socket.socket
    until: float
    since: float = field(default_factory=time.monotonic)
    """When it became the other side's turn. Who trickles is waited for all the time."""
    waits: bool = True
    ended: bool = False

    def end(self) -> None:
        """Have whoever reads or writes it come to its end. The thread that has it closes it."""
        self.ended = True
        with suppress(OSError):  # it has ended meanwhile
            # As a plain socket, also with TLS: what TLS does first another thread is using.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


class Server(ThreadingHTTPServer):
    """A thread for each connection, of which there are few.

    A subclass says its `name`, how many connections it takes, and how many seconds each step of
    theirs may take.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    name: ClassVar[str]
    most_connections: ClassVar[int]
    first_seconds: float
    """For the first line of a connection's first request; `next_seconds` for that of another."""
    next_seconds: float
    head_seconds: float
    """For the rest of a request's head."""
    answer_seconds: float = 30.0
    """For the other side to take an answer."""

    def __init__(self, *arguments: Any) -> None:
        self._mutex = threading.Lock()
        self._open: dict[socket.socket, _Connection] = {}
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Unlike HTTPServer's it doesn't ask the DNS for this host's name, and wait for that."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room, or somebody leaves: before a thread is made for it."""
        with self._mutex:
            there = [each for each in self._open.values() if not each.ended]
            if len(there) >= self.most_connections:
                leaving = self._leaving(there)
                # Those that were ended go at once, unless the machine has no time for them.
                if leaving is None or len(self._open) >= 2 * self.most_connections:
                    return False
                leaving.end()
            until = time.monotonic() + self.first_seconds
            self._open[request] = _Connection(client_address[0], request, until)
        return True

    def _leaving(self, there: list[_Connection]) -> _Connection | None:
        of = Counter(each.host for each in there)
        return min(
            (each for each in there if each.waits),
            key=lambda each: (-of[each.host], each.since),
            default=None,
        )

    def shutdown_request(self, request: Any) -> None:
        """Called for each connection at its end, also for one that had no room."""
        with self._mutex:
            self._open.pop(request, None)
        super().shutdown_request(request)

    @contextmanager
    def secured(self, request: socket.socket, secure: socket.socket) -> Iterator[None]:
        """A connection has TLS for a while: another socket, which took the first one's file."""
        self._rename(request, secure)
        try:
            yield
        finally:
            self._rename(secure, request)

    def _rename(self, old: socket.socket, new: socket.socket) -> None:
        with self._mutex:
            if (found := self._open.pop(old, None)) is not None:
                found.socket = new
                self._open[new] = found

    def allow(self, request: socket.socket, seconds: float) -> None:
        """Wait for the other side: for so many seconds from now, or until there is no room."""
        self._give(request, seconds, waits=True)

    def keep(self, request: socket.socket, seconds: float = math.inf) -> None:
        """We work, or who is known has so many seconds: whether there is room or not."""
        self._give(request, seconds, waits=False)

    def _give(self, request: socket.socket, seconds: float, *, waits: bool) -> None:
        with self._mutex:
            if (found := self._open.get(request)) is not None:
                now = time.monotonic()
                found.until = now + seconds
                if waits and not found.waits:
                    found.since = now
                found.waits = waits

    def service_actions(self) -> None:
        """Twice a second: end connections whose time is up, however they trickle."""
        now = time.monotonic()
        with self._mutex:
            for each in self._open.values():
                if each.until < now and not each.ended:
                    each.end()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Nobody's business but of who looks for it: clients break off."""
        log.debug("http.broken", server=self.name, client=str(client_address), exc_info=True)


class _Head(io.BufferedIOBase):
    """What comes, with so many bytes of lines in one request and no more."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._left = MAX_HEAD_BYTES

    def begin(self) -> None:
        """Another request begins."""
        self._left = MAX_HEAD_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        """A line of a head.

        Raises:
            LineTooLong: it has too many bytes.
            ConnectionError: it ends before its end, which `http.client` takes for it.
        """
        most = self._left + 1 if size is None or size < 0 else min(size, self._left + 1)
        line = self._stream.readline(most)
        if not line and self._left < MAX_HEAD_BYTES:
            raise ConnectionAbortedError
        self._left -= len(line)
        if self._left < 0:
            raise http.client.LineTooLong("head")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        """Bytes of a body."""
        return self._stream.read(size)

    def read1(self, size: int = -1, /) -> bytes:
        """Bytes of a body, as they come."""
        return self._stream.read1(size)

    def close(self) -> None:
        """Close it."""
        self._stream.close()
        super().close()


class Handler(BaseHTTPRequestHandler):
    """One connection, request by request."""

    protocol_version = "HTTP/1.1"
    server: Server
    server_version = "modelcache"
    sys_version = ""
    # An answer is one packet, and is not to wait for another.
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self) -> None:
        """Bound what is read for a head."""
        super().setup()
        self._head = _Head(self.rfile)
        self.rfile = self._head

    def handle_one_request(self) -> None:
        """One request, and the time for the next."""
        self._head.begin()
        super().handle_one_request()
        self.server.allow(self.connection, self.server.next_seconds)

    def parse_request(self) -> bool:
        """The rest of a head: its first line is there."""
        self.server.allow(self.connection, self.server.head_seconds)
        return super().parse_request()

    def send(
        self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer. `kind`: the content's type; `headers`: more of them."""
        self.server.allow(self.connection, self.server.answer_seconds)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """For who looks for it."""
        log.debug("http.request", server=self.server.name, line=format % args)


_S = TypeVar("_S", bound=Server)


class Serving(Generic[_S]):
    """A server that runs, in threads of its own."""

    def __init__(self, server: _S) -> None:
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, name=f"{server.name}-server", daemon=True
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
        """Stop listening. What is being answered goes on."""
        with suppress(OSError):
            # The loop looks twice a second whether it is to end, and at once when this wakes it.
            self._server.socket.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


def listen(
    address: tuple[str, int], server: type[_S], handler: type[Handler], *, setting: str
) -> _S:
    """Have an address; nobody is answered yet. `setting`: where the address is from.

    Raises:
        UsageError: the address can't be had.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    of_family: type[_S] = type("_FamilyServer", (server,), {"address_family": family})
    try:
        return of_family(address, handler)
    except OSError as error:
        raise UsageError(
            f"can't listen on {host_and_port(address)}: {error.strerror or error}; set {setting}"
        ) from error
