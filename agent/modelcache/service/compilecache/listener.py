"""The listener for pods: HTTP on the node's own address, bounded in everything.

Plain HTTP: the token goes from a pod to its own node, and is good for nobody else (its audience).
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable
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
from modelcache.errors import ModelCacheError
from modelcache.service.compilecache.door import Refused
from modelcache.service.compilecache.receiving import Receiving
from modelcache.service.httpserving import Handler, Server, Serving, listen

log = structlog.get_logger(__name__)

_QUESTION_SECONDS: Final = 10.0
"""For a request's first line, for the rest of its head, and for a small body."""
_SILENCE_SECONDS: Final = 30.0
_LEAST_A_SECOND: Final = 4 * 1024 * 1024
"""Bytes of an archive that come in a second, at least: it comes from the same node, and who is slow
keeps others from theirs."""
_CHECK_SECONDS: Final = 1800.0
"""For scanning what came."""
_MOST_BLAMED: Final = 1024
_MOST_STRANGE: Final = 8
"""Tokens of one pod, or address, that were none: each is a question to the API server, and those
are few."""
_STRANGE_SECONDS: Final = 60.0


class _Server(Server):
    name = "compile"
    most_connections = 32
    receiving: Receiving

    def __init__(self, *arguments: Any) -> None:
        self._strange: OrderedDict[str, list[float]] = OrderedDict()
        super().__init__(*arguments)

    def blame(self, who: str) -> None:
        """A token of this pod, or from this address, was none."""
        with self._mutex:
            now = time.monotonic()
            recent = [at for at in self._strange.pop(who, ()) if now - at < _STRANGE_SECONDS]
            self._strange[who] = [*recent, now][-_MOST_STRANGE:]
            while len(self._strange) > _MOST_BLAMED:
                self._strange.popitem(last=False)

    def is_strange(self, who: str) -> bool:
        """Whether somebody brought so many tokens that were none that no more are looked at."""
        with self._mutex:
            times = self._strange.get(who, ())
            first = times[0] if len(times) == _MOST_STRANGE else float("-inf")
            return time.monotonic() - first < _STRANGE_SECONDS


class _Handler(Handler):
    server: _Server
    compile_cache: str | None = None
    blamed = ""
    """Who answers for a wrong token: the pod that it is said to be for, or the address."""

    def handle_expect_100(self) -> bool:
        """Not yet: a refusal is to cost no upload."""
        return True

    def do_PUT(self) -> None:  # noqa: N802 - the base class's name
        found = read_bundle_path(self.path)
        self.compile_cache = found[0] if found else None
        if found is None:
            self._refuse(Refused(404, "NotFound", "there is nothing at this path to put"))
        else:
            self._guarded(lambda: self._bundle(*found))

    def do_POST(self) -> None:  # noqa: N802 - the base class's name
        name = self.compile_cache = read_starts_path(self.path)
        if name is None:
            self._refuse(Refused(404, "NotFound", "there is nothing at this path to post to"))
        else:
            self._guarded(lambda: self._start(name))

    def _bundle(self, name: str, digest: str) -> None:
        # Asking the API server who calls may take some seconds.
        self.server.keep(self.connection)
        header = self.headers.get(CAPTURE_HEADER, "")
        ticket = self.server.receiving.admit(name, digest, self._token(), header, self._length())
        if isinstance(ticket, CaptureAnswer):
            # What was announced is not read: it can't be taken for the next request.
            self.close_connection = True
            self._send(200, ticket.to_document())
            return
        expects = self.headers.get("Expect", "").lower() == "100-continue"
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
                self.server.keep(self.connection, _CHECK_SECONDS)
            return part

        # Kept, whoever else comes: publishers alone get here, and few of them have their turn.
        patience = _SILENCE_SECONDS + ticket.size / _LEAST_A_SECOND
        self.server.keep(self.connection, patience)
        self.connection.settimeout(_SILENCE_SECONDS)
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
        self.server.allow(self.connection, self.server.head_seconds)
        body = self.rfile.read(length)
        self.server.keep(self.connection)
        self.server.receiving.start(name, token, body)
        self.send_response(204)
        self.end_headers()

    def _token(self) -> str:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        token = token.strip() if kind.lower() == "bearer" else ""
        # Behind a hostPort all pods may have one address: their own tokens say which they are.
        self.blamed = self.server.receiving.claimed(token) or self.client_address[0]
        if self.server.is_strange(self.blamed):
            why = "too many tokens of this pod or address were none: later"
            raise Refused(429, "Busy", why, retry_after=int(_STRANGE_SECONDS))
        if not token:
            raise Refused(401, "NotAuthenticated", "a service-account token is wanted (Bearer)")
        return token

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
        except (TimeoutError, ConnectionError):
            self.close_connection = True
        except Exception:
            # The request's outermost line: who asks is told, and so is who reads the log.
            log.exception("compile.request.failed")
            why = "failed; the agent's log says why"
            self._refuse(Refused(500, "Internal", why, retry_after=60))
        # For the answer and the next request of this connection.
        self.connection.settimeout(None)

    def _refuse(self, refused: Refused) -> None:
        # What follows was not read, or not all of it.
        self.close_connection = True
        self.server.receiving.refused(refused)
        if refused.status == 401:
            self.server.blame(self.blamed)
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
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.send(status, "application/json", json.dumps(document).encode() + b"\n", headers)


class Listener(Serving[_Server]):
    """Answers pods."""

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
        server = listen(address, _Server, _Handler, setting="--compile-listen")
        server.receiving = receiving
        server.first_seconds = server.next_seconds = server.head_seconds = question_seconds
        super().__init__(server)
