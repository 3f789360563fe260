"""The agent's HTTP endpoints: its page, /livez, /readyz, /metrics, /v1/node, /v1/events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from modelcache.service.httpserving import Handler, Server, Serving, host_and_port, listen

__all__ = ["Answer", "Endpoints", "Route", "document", "host_and_port", "text"]

log = structlog.get_logger(__name__)

Answer = tuple[int, str, bytes] | tuple[int, str, bytes, Mapping[str, str]]
"""Status, content type, body; and headers, if it has some of its own."""

Route = Callable[[], Answer]


def text(status: int, message: str) -> Answer:
    """An answer of one line."""
    return status, "text/plain; charset=utf-8", message.encode() + b"\n"


def document(content: dict[str, Any]) -> Answer:
    """An answer in JSON."""
    return 200, "application/json", json.dumps(content).encode() + b"\n"


class _Server(Server):
    name = "endpoints"
    most_connections = 64
    first_seconds = next_seconds = 30.0
    head_seconds = 10.0
    routes: dict[str, Route]


class _Handler(Handler):
    server: _Server

    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        self.server.keep(self.connection)
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
        status, kind, body, *more = answer
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        self.send(status, kind, body, {**headers, **(more[0] if more else {})})


class Endpoints(Serving[_Server]):
    """A server for a few routes."""

    def __init__(self, address: tuple[str, int], routes: dict[str, Route]) -> None:
        """Listen.

        Raises:
            UsageError: the address can't be had.
        """
        server = listen(address, _Server, _Handler, setting="--listen")
        server.routes = routes
        super().__init__(server)
