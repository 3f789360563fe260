"""A stand-in for the agent of a node, as a pod's sidecar speaks to it: a real HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from modelcache.compilecache.pods.posting import Agent
from modelcache.compilecache.pods.protocol import (
    CAPTURE_HEADER,
    CaptureDocument,
    StartDocument,
    read_bundle_path,
    read_starts_path,
)

TOKEN = "a-token"


@dataclass(frozen=True)
class Answer:
    """What is answered: before the upload (`early`), after it, or in the middle of it."""

    status: int = 201
    body: dict[str, Any] = field(default_factory=lambda: {"digest": None})
    headers: dict[str, str] = field(default_factory=dict)
    early: bool = False
    middle: bool = False


def refusal(status: int, reason: str, message: str = "m", **more: Any) -> Answer:
    return Answer(status, {"reason": reason, "message": message}, **more)


class CompileAgent:
    """Takes what it is given. `answers` are given one after the other, then all is well."""

    def __init__(self, folder: Path) -> None:
        self.answers: list[Answer] = []
        self.captures: list[tuple[str, CaptureDocument, bytes]] = []
        self.starts: list[tuple[str, StartDocument]] = []
        self.tokens: list[str] = []
        self.uploaded = 0
        self.requests = 0
        self.knows_expect = True
        self.hangs = False
        self.hangs_after: int | None = None
        """Requests that it answers before it hangs; None: all."""
        self.asked = threading.Event()
        self.token_file = folder / "token"
        self.token_file.write_text(f"{TOKEN}\n")
        handler = type("Handler", (_Handler,), {"agent": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._released = threading.Event()
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def client(self) -> Agent:
        return Agent("127.0.0.1", self.port, self.token_file)

    def wait_for(self, what: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait until something is true that a request changes."""
        with self._changed:
            assert self._changed.wait_for(what, seconds), "nothing came"

    def changed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def hold(self) -> None:
        """Hang, until the end of the test."""
        self._released.wait(60)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    agent: CompileAgent

    def log_message(self, *_: Any) -> None:
        pass

    def handle_expect_100(self) -> bool:
        agent = self.agent
        if not agent.knows_expect:
            return True
        if agent.answers and agent.answers[0].early:
            self._arrived()
            self._answer(agent.answers.pop(0))
            self.close_connection = True
            return False
        return super().handle_expect_100()

    def _arrived(self) -> None:
        self.agent.requests += 1
        self.agent.tokens.append(self.headers["Authorization"])
        self.agent.asked.set()
        self.agent.changed()
        after = self.agent.hangs_after
        if self.agent.hangs or (after is not None and self.agent.requests > after):
            self.agent.hold()

    def do_PUT(self) -> None:
        agent = self.agent
        self._arrived()
        found = read_bundle_path(self.path)
        assert found is not None
        name, digest = found
        capture = CaptureDocument.from_header(self.headers[CAPTURE_HEADER])
        length = int(self.headers["Content-Length"])
        answer = agent.answers.pop(0) if agent.answers else Answer()
        if answer.middle:
            agent.uploaded += len(self.rfile.read(min(length, 65536)))
            self._answer(answer)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        agent.uploaded += len(body)
        if len(body) < length:  # the other end has gone
            self.close_connection = True
            return
        assert digest == capture.archive.digest == f"sha256:{sha256(body).hexdigest()}"
        assert length == capture.archive.size
        if answer.status < 300:
            agent.captures.append((name, capture, body))
        self._answer(answer)
        agent.changed()

    def do_POST(self) -> None:
        agent = self.agent
        self._arrived()
        name = read_starts_path(self.path)
        assert name is not None
        start = StartDocument.read(self.rfile.read(int(self.headers["Content-Length"])))
        answer = agent.answers.pop(0) if agent.answers else Answer(204)
        if answer.status < 300:
            agent.starts.append((name, start))
        self._answer(answer)
        agent.changed()

    def _answer(self, answer: Answer) -> None:
        body = b"" if answer.status == 204 else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
