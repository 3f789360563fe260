"""The listener for pods: HTTP on the node's own address, bounded in everything.

Plain HTTP: the token goes from a pod to its own node, and is good for nobody else (its audience).
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import socketserver
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import structlog

from modelcache.compilecache.pods.protocol import (
    CAPTURE_HEADER,
    MAX_DOCUMENT_BYTES,
    CaptureAnswer,
    Refusal,
    read_bundle_path,
    read_starts_path,
)
from modelcache.errors import ModelCacheError, UsageError
from modelcache.service.compilecache.door import Refused
from modelcache.service.compilecache.receiving import Receiving
from modelcache.service.endpoints import host_and_port

log = structlog.get_logger(__name__)

_MOST_CONNECTIONS: Final = 32
_MOST_OF_ONE: Final = 4
"""Connections of one address: no pod takes all."""
_QUESTION_SECONDS: Final = 10.0
"""For a request's head, and for a small body."""
_SILENCE_SECONDS: Final = 30.0
_LEAST_A_SECOND: Final = 4 * 1024 * 1024
"""Bytes of an archive that come in a second, at least: it comes from the same node, and who is slow
keeps others from theirs."""
_CHECK_SECONDS: Final = 1800.0
"""For scanning what came."""
_MAX_HEAD_BYTES: Final = 96 * 1024
"""Of a request line with all headers: `http.client` takes a hundred headers of 64 KiB each, and ten
times as much memory to read them."""
_MOST_BLAMED: Final = 1024
_MOST_STRANGE: Final = 8
"""Tokens of one address that were none: each is a question to the API server, and those are few."""
_STRANGE_SECONDS: Final = 60.0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32
    receiving: Receiving
    question_seconds: float

    def __init__(self, *arguments: Any) -> None:
        self._mutex = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}
        self._hosts: dict[socket.socket, str] = {}
        self._of: Counter[str] = Counter()
        self._strange: OrderedDict[str, list[float]] = OrderedDict()
        super().__init__(*arguments)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the DNS for this host's name, and waits where nobody answers.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room: before a thread is made for it."""
        with self._mutex:
            host = client_address[0]
            full = len(self._deadlines) >= _MOST_CONNECTIONS or self._of[host] >= _MOST_OF_ONE
            if not full:
                self._deadlines[request] = time.monotonic() + self.question_seconds
                self._hosts[request] = host
                self._of[host] += 1
        return not full

    def shutdown_request(self, request: Any) -> None:
        """Called for each connection at its end, also for one that had no room."""
        with self._mutex:
            if self._deadlines.pop(request, None) is not None:
                host = self._hosts.pop(request)
                self._of[host] -= 1
                if not self._of[host]:
                    del self._of[host]
        super().shutdown_request(request)

    def allow(self, request: socket.socket, seconds: float) -> None:
        """Give a connection so many seconds from now."""
        with self._mutex:
            if request in self._deadlines:
                self._deadlines[request] = time.monotonic() + seconds

    def blame(self, host: str) -> None:
        """A token from this address was none."""
        with self._mutex:
            now = time.monotonic()
            recent = [at for at in self._strange.pop(host, ()) if now - at < _STRANGE_SECONDS]
            self._strange[host] = [*recent, now][-_MOST_STRANGE:]
            while len(self._strange) > _MOST_BLAMED:
                self._strange.popitem(last=False)

    def is_strange(self, host: str) -> bool:
        """Whether an address brought so many tokens that were none that no more are looked at."""
        with self._mutex:
            times = self._strange.get(host, ())
            first = times[0] if len(times) == _MOST_STRANGE else float("-inf")
            return time.monotonic() - first < _STRANGE_SECONDS

    def service_actions(self) -> None:
        """Twice a second: end connections whose time is up, however they trickle."""
        now = time.monotonic()
        with self._mutex:
            late = [request for request, until in self._deadlines.items() if until < now]
        for request in late:
            with suppress(OSError):  # it has ended meanwhile
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("compile.connection.broken", client=str(client_address), exc_info=True)


class _Head(io.BufferedIOBase):
    """What comes from a pod, with so many bytes of lines in one request and no more."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._left = _MAX_HEAD_BYTES

    def begin(self) -> None:
        """Another request begins."""
        self._left = _MAX_HEAD_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        """A line of a head.

        Raises:
            LineTooLong: it has too many bytes.
        """
        most = self._left + 1 if size is None or size < 0 else min(size, self._left + 1)
        line = self._stream.readline(most)
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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    server_version = "modelcache"
    sys_version = ""
    timeout = _QUESTION_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1
    compile_cache: str | None = None

    def setup(self) -> None:
        """Bound what is read for a head."""
        super().setup()
        self._head = _Head(self.rfile)
        self.rfile = self._head

    def handle_one_request(self) -> None:
        """One request."""
        self._head.begin()
        super().handle_one_request()

    def handle_expect_100(self) -> bool:
        """Not yet: a refusal is to cost no upload."""
        return True

    def do_PUT(self) -> None:
        found = read_bundle_path(self.path)
        self.compile_cache = found[0] if found else None
        if found is None:
            self._refuse(Refused(404, "NotFound", "there is nothing at this path to put"))
        else:
            self._guarded(lambda: self._bundle(*found))

    def do_POST(self) -> None:
        name = self.compile_cache = read_starts_path(self.path)
        if name is None:
            self._refuse(Refused(404, "NotFound", "there is nothing at this path to post to"))
        else:
            self._guarded(lambda: self._start(name))

    def _bundle(self, name: str, digest: str) -> None:
        # Asking the API server who calls may take some seconds.
        self.server.allow(self.connection, 2 * _QUESTION_SECONDS)
        header = self.headers.get(CAPTURE_HEADER, "")
        ticket = self.server.receiving.admit(name, digest, self._token(), header, self._length())
        if isinstance(ticket, CaptureAnswer):
            # What was announced is not read: it can't be taken for the next request.
            self.close_connection = True
            self._send(200, ticket.to_document())
            return
        expects = self.headers.get("Expect", "").lower() == "100-continue"
        self.connection.settimeout(_SILENCE_SECONDS)
        left = ticket.size

        def read(size: int) -> bytes:
            nonlocal expects, left
            if expects:
                # Only now is there room for it.
                expects = False
                self.send_response_only(100)
                self.end_headers()
                self.wfile.flush()
            part = self.rfile.read1(size)
            left -= len(part)
            if not left:
                self.server.allow(self.connection, _CHECK_SECONDS)
            return part

        patience = _SILENCE_SECONDS + ticket.size / _LEAST_A_SECOND
        self.server.allow(self.connection, patience)
        answer = self.server.receiving.take(ticket, read)
        self._send(201, answer.to_document())

    def _start(self, name: str) -> None:
        length = self._length()
        if length is None or length > MAX_DOCUMENT_BYTES:
            raise Refused(413, "TooLarge", f"a start has at most {MAX_DOCUMENT_BYTES} bytes")
        token = self._token()
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
            self.wfile.flush()
        body = self.rfile.read(length)
        self.server.allow(self.connection, 2 * _QUESTION_SECONDS)
        self.server.receiving.start(name, token, body)
        self.send_response(204)
        self.end_headers()

    def _token(self) -> str:
        if self.server.is_strange(self.client_address[0]):
            why = "too many tokens from this address were none: later"
            raise Refused(429, "Busy", why, retry_after=int(_STRANGE_SECONDS))
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise Refused(401, "NotAuthenticated", "a service-account token is wanted (Bearer)")
        return token.strip()

    def _length(self) -> int | None:
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None

    def _guarded(self, answer: Callable[[], None]) -> None:
        try:
            answer()
        except Refused as refused:
            self._refuse(refused)
        except ModelCacheError as error:
            self._refuse(Refused(503, "Failed", str(error), retry_after=30))
        except TimeoutError:
            self.close_connection = True
        except Exception:
            # The request's outermost line: who asks is told, and so is who reads the log.
            log.exception("compile.request.failed")
            why = "failed; the agent's log says why"
            self._refuse(Refused(500, "Internal", why, retry_after=60))
        # For the next request of this connection.
        self.connection.settimeout(_QUESTION_SECONDS)
        self.server.allow(self.connection, self.server.question_seconds)

    def _refuse(self, refused: Refused) -> None:
        # What follows was not read, or not all of it.
        self.close_connection = True
        self.server.receiving.refused(refused)
        if refused.status == 401:
            self.server.blame(self.client_address[0])
        refusal = Refusal(reason=refused.word, message=str(refused)[:1024])
        log.info(
            "compile.request.refused",
            compile_cache=self.compile_cache,
            caller=refused.caller or None,
            client=str(self.client_address[0]),
            status=refused.status,
            reason=refused.word,
            message=str(refused)[:1024],
        )
        self._send(refused.status, refusal.to_document(), refused.retry_after)

    def _send(self, status: int, document: dict[str, Any], retry_after: int | None = None) -> None:
        body = json.dumps(document).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        log.debug("compile.request", line=format % args)


class Listener:
    """Answers pods, in threads of its own."""

    def __init__(
        self,
        address: tuple[str, int],
        receiving: Receiving,
        question_seconds: float = _QUESTION_SECONDS,
    ) -> None:
        """Listen. `question_seconds`: how long a request's head may take.

        Raises:
            UsageError: the address can't be had.
        """
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        server_class = type("_FamilyServer", (_Server,), {"address_family": family})
        try:
            self._server: _Server = server_class(address, _Handler)
        except OSError as error:
            raise UsageError(
                f"can't listen on {host_and_port(address)}: {error.strerror or error};"
                " set --compile-listen"
            ) from error
        self._server.receiving = receiving
        self._server.question_seconds = question_seconds
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="compile-listener", daemon=True
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
