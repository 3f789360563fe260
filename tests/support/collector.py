"""A collector of traces: OTLP over HTTP on loopback, its requests read with OpenTelemetry's own
protocol buffers."""

from __future__ import annotations

import gzip
import socketserver
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue


def _plain(pairs: Any) -> dict[str, Any]:
    def value(pair: KeyValue) -> Any:
        return getattr(pair.value, pair.value.WhichOneof("value") or "string_value")

    return {pair.key: value(pair) for pair in pairs}


@dataclass(frozen=True, slots=True)
class Received:
    """One span. Times in nanoseconds since the epoch."""

    name: str
    trace: bytes
    id: bytes
    parent: bytes
    links: tuple[bytes, ...]
    start: int
    end: int
    attributes: dict[str, Any]
    events: tuple[tuple[str, dict[str, Any]], ...]
    failed: bool
    resource: dict[str, Any]


class _Listening:
    """A server on loopback for as long as the block."""

    def __init__(self, server: socketserver.TCPServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"


class Collector(_Listening):
    """Collects spans: `spans`. A context manager."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._spans: list[Received] = []
        self.raw = b""
        self.headers: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                found = self.path == "/v1/traces"
                if found:
                    collector.take(body, dict(self.headers))
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))

    @property
    def spans(self) -> list[Received]:
        """What came, by its beginning."""
        with self._mutex:
            return sorted(self._spans, key=lambda span: span.start)

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        """Take a request in."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._mutex:
            self.raw += body
            self.headers.append(headers)
            for of_resource in request.resource_spans:
                resource = _plain(of_resource.resource.attributes)
                for of_scope in of_resource.scope_spans:
                    for span in of_scope.spans:
                        self._spans.append(
                            Received(
                                span.name,
                                span.trace_id,
                                span.span_id,
                                span.parent_span_id,
                                tuple(link.span_id for link in span.links),
                                span.start_time_unix_nano,
                                span.end_time_unix_nano,
                                _plain(span.attributes),
                                tuple((e.name, _plain(e.attributes)) for e in span.events),
                                span.status.code == span.status.STATUS_CODE_ERROR,
                                resource,
                            )
                        )


class HangingCollector(_Listening):
    """Takes what is sent, and never says how that went: not a word, or one byte now and then of an
    answer without an end. A context manager."""

    def __init__(self, *, drips: bool) -> None:
        self._end = end = threading.Event()
        self.asked = asked = threading.Event()
        """A request has begun to come."""

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.recv(65536)
                asked.set()
                if drips:
                    self.request.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not end.wait(0.1):
                    if drips:
                        self.request.sendall(b"x")

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False

        super().__init__(Server(("127.0.0.1", 0), Handler))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._end.set()
        super().__exit__(kind, error, at)
