"""A front that stands between the engine and a real server, and spoils what comes of it.

It passes requests on and answers back. A fault (`tests.support.hub.faults`) hits only requests for
data, so that whatever server is behind, the same goes wrong in the same way.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.hub.content import Content
from tests.support.hub.delivery import BrokenConnectionError, Delivery
from tests.support.hub.faults import Fault, FaultBook, Span, Status, WrongContentRange, WrongLength
from tests.support.hub.listener import Listener
from tests.support.hub.traffic import Request, RequestLog, Throttle

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_OURS = ("connection", "content-length", "date", "keep-alive", "server", "transfer-encoding")
"""Headers that are about one connection, or that this server writes itself."""


@dataclass(frozen=True)
class ExtraBytes(Fault):
    """The answer goes on for `count` bytes behind its end; Content-Length counts them."""

    count: int


class _Body(Content):
    """The bytes of one answer, at their place in the file."""

    def __init__(self, data: bytes, start: int) -> None:
        super().__init__(start + len(data))
        self._data, self._start = memoryview(data), start

    @property
    def identity(self) -> str:
        raise NotImplementedError

    def read(self, start: int, end: int) -> Iterator[memoryview]:
        yield self._data[start - self._start : end - self._start]


class FaultyFront:
    """On a port of loopback, in front of the server at `behind`.

    Attributes:
        url: where it is.
        inflicted: the faults that requests met.
        gate: asked at each request for data; a status is its answer.
    """

    def __init__(self, behind: str, data: str) -> None:
        """`data`: what the paths of requests for data have in them, and no others."""
        self.behind, self.data = urlsplit(behind), data
        self.log, self.throttle, self.ending = RequestLog(), Throttle(), threading.Event()
        self.inflicted: list[Fault] = []
        self.gate: Callable[[], int | None] = lambda: None
        self._faults = FaultBook()
        self._listener = Listener("127.0.0.1", partial(_Handler, self))
        self.url = self._listener.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ending.set()
        self._listener.stop()
        assert error is not None or not self._listener.errors, self._listener.errors

    @property
    def port(self) -> int:
        found = urlsplit(self.url).port
        assert found is not None
        return found

    def fault(self, *faults: Fault) -> None:
        """Queue faults: each answer with data meets the first that can touch it."""
        for fault in faults:
            self._faults.add("*", fault)

    def clear(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    @property
    def questions(self) -> int:
        """Requests so far that were not for data."""
        requests = self.log.snapshot()
        return sum(r.method != "GET" or self.data not in r.path for r in requests)

    def cut(self) -> None:
        """End every connection; new ones are welcome."""
        self._listener.drop_connections()

    def meet(self, span: Span) -> Fault | None:
        """The fault for an answer with these bytes."""
        refused = self.gate()
        fault = Status(refused) if refused else self._faults.for_body("", "data", span)
        if fault is not None:
            self.inflicted.append(fault)
        return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, front: FaultyFront, *given: Any) -> None:
        self._front = front
        super().__init__(*given)

    def do_GET(self) -> None:
        front = self._front
        request = Request(time.time(), "cdn", self.command, self.path, {}, None)
        front.log.open(request)
        try:
            self._pass_on(request)
        except BrokenConnectionError:
            self.close_connection = True
        finally:
            front.log.note(request, finished=True)

    do_HEAD = do_GET  # noqa: N815 - the base class's way

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        """Say nothing: there is `FaultyFront.log`."""

    def _pass_on(self, request: Request) -> None:
        answer, body = self._ask()
        named = ((name.lower(), value) for name, value in answer.headers.items())
        headers = {name: value for name, value in named if name not in _OURS}
        is_data = self.command == "GET" and self._front.data in self.path
        if is_data and answer.status in (200, 206):
            self._send_data(request, answer.status, headers, body)
            return
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else len(body)
        self._head(request, answer.status, {**headers, "Content-Length": str(length)})
        self.wfile.write(body)

    def _ask(self) -> tuple[http.client.HTTPResponse, bytes]:
        behind = self._front.behind
        connection = http.client.HTTPConnection(behind.hostname or "", behind.port, timeout=10)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        try:
            connection.request(self.command, self.path, headers=headers)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def _send_data(
        self, request: Request, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        front, start, total = self._front, 0, len(body)
        if status == 206:
            found = _CONTENT_RANGE.fullmatch(headers["content-range"])
            assert found, headers
            start, total = int(found[1]), int(found[3])
        span = Span(start, start + len(body), partial=status == 206)
        fault = front.meet(span)
        extra, shift = 0, 0
        match fault:
            case Status():
                self._refuse(request, fault)
                return
            case ExtraBytes(count=count):
                body += bytes(count)
                extra = count
            case WrongLength(delta=delta):
                total += delta
            case WrongContentRange(shift=by):
                shift = by
        if status == 206:
            first, last = span.start + shift, span.end - 1 + shift
            headers["content-range"] = f"bytes {first}-{last}/{total}"
        self._head(request, status, {**headers, "Content-Length": str(len(body))})
        sent = partial(_note_sent, front.log, request)
        delivery = Delivery(self.connection, front.throttle, front.ending, sent)
        delivery.deliver(
            _Body(body, start), Span(start, span.end + extra, partial=span.partial), fault
        )

    def _refuse(self, request: Request, status: Status) -> None:
        headers = {**status.headers, "Content-Length": str(len(status.body))}
        if status.retry_after is not None:
            headers["Retry-After"] = str(status.retry_after)
        self._head(request, status.code, headers)
        self.wfile.write(status.body)

    def _head(self, request: Request, status: int, headers: Mapping[str, str]) -> None:
        self._front.log.note(request, status=status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _note_sent(log: RequestLog, request: Request, count: int) -> None:
    log.note(request, sent=count)
