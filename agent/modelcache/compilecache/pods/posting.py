"""Handing over: a sidecar's requests to the agent of its node, over plain HTTP.

They don't leave the node: the address is the node's own, as kubelet tells it. The token is for this
audience alone, and read anew for each request, since kubelet renews it.
"""

from __future__ import annotations

import http.client
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from modelcache import __version__
from modelcache.compilecache.pods.protocol import (
    CAPTURE_HEADER,
    CaptureAnswer,
    CaptureDocument,
    Refusal,
    StartDocument,
    bundle_path,
    starts_path,
)
from modelcache.errors import AuthFailed, ModelCacheError, OriginUnavailable
from modelcache.transfer.backoff import delay
from modelcache.transfer.cancelling import Cancel

CHUNK_BYTES: Final = 1 << 20
_CONNECT_SECONDS: Final = 5.0
_SILENCE_SECONDS: Final = 60.0
"""How long the agent may take nothing, or say nothing to a question."""
_CHECK_SECONDS: Final = 1800.0
"""How long it may say nothing once it has an archive: it scans all of it before it answers."""
_CONTINUE_SECONDS: Final = 30.0
"""How long the agent may take to say whether it wants the archive: it asks the API server first."""
_REST_SECONDS: Final = 2.0
_MAX_ANSWER_BYTES: Final = 64 * 1024
_MAX_HEAD_BYTES: Final = 16 * 1024
_MAX_TOKEN_BYTES: Final = 64 * 1024
_FIRST_SECONDS: Final = 1.0
_MOST_SECONDS: Final = 300.0
_LATER: Final = (408, 425, 429, 500, 502, 503, 504)


class Refused(ModelCacheError):
    """The agent doesn't do what it is asked, and won't if it is asked again."""


class Unavailable(OriginUnavailable):
    """The agent can't be reached, or asks to be asked again later."""


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent of this node.

    Attributes:
        host: its address, an IP address or a name.
        port: where it listens.
        token_file: the file with the token that shows who asks.
    """

    host: str
    port: int
    token_file: Path

    def publish(
        self, name: str, capture: CaptureDocument, archive: Path, cancel: Cancel
    ) -> CaptureAnswer:
        """Hand over an archive, unless the agent doesn't want it: then nothing of it is sent.

        Raises:
            Refused, Unavailable, AuthFailed, Cancelled
            OSError: the archive can't be read.
        """
        path = bundle_path(name, capture.archive.digest)
        headers = {
            CAPTURE_HEADER: capture.to_header(),
            "Expect": "100-continue",
            "Content-Type": "application/octet-stream",
        }
        with archive.open("rb") as file, self._connected(cancel) as connection:
            size = capture.archive.size
            self._begin(connection, "PUT", path, headers, size)
            if _is_wanted(connection.sock):
                _send(connection, file.read, size, cancel)
                connection.sock.settimeout(_CHECK_SECONDS)
            body = _answer(connection)
        cancel.check()
        try:
            return CaptureAnswer.model_validate_json(body)
        except ValidationError as error:
            raise Unavailable("the agent's answer can't be read") from error

    def report(self, name: str, start: StartDocument, cancel: Cancel) -> None:
        """Tell how a start went.

        Raises:
            Refused, Unavailable, AuthFailed, Cancelled
        """
        body = start.to_bytes()
        with self._connected(cancel) as connection:
            headers = {"Content-Type": "application/json"}
            self._begin(connection, "POST", starts_path(name), headers, len(body))
            with _told():
                connection.send(body)
            _answer(connection)
        cancel.check()

    @contextmanager
    def _connected(self, cancel: Cancel) -> Iterator[http.client.HTTPConnection]:
        """A connection, which a cancellation closes, whatever it waits for."""
        cancel.check()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_CONNECT_SECONDS)
        try:
            with _told():
                connection.connect()
                connection.sock.settimeout(_SILENCE_SECONDS)
            with cancel.calling(lambda: _shut(connection.sock)):
                yield connection
        except Unavailable:
            cancel.check()
            raise
        finally:
            connection.close()

    def _begin(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        headers: dict[str, str],
        size: int,
    ) -> None:
        token = self._token()
        with _told():
            connection.putrequest(method, path, skip_accept_encoding=True)
            connection.putheader("Authorization", f"Bearer {token}")
            connection.putheader("User-Agent", f"modelcache-capture/{__version__}")
            connection.putheader("Content-Length", str(size))
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()

    def _token(self) -> str:
        try:
            with self.token_file.open("rb") as file:
                token = file.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise AuthFailed(f"the token {self.token_file} can't be read: {why}") from error
        if not token or not token.isprintable() or " " in token:
            raise AuthFailed(f"{self.token_file} holds no token")
        return token


def again_and_again(
    what: Callable[[], CaptureAnswer | None],
    cancel: Cancel,
    *,
    seconds: float,
    told: Callable[[Unavailable, float], None] = lambda error, pause: None,  # noqa: ARG005
    clock: Callable[[], float] = time.monotonic,
) -> CaptureAnswer | None:
    """Try until it is done or refused, with growing pauses, no longer than so many seconds.

    Raises:
        Refused, AuthFailed, Cancelled
        Unavailable: the last one, when the time is over.
    """
    end = clock() + seconds
    failures = 0
    while True:
        try:
            return what()
        except Unavailable as error:
            failures += 1
            wish = error.retry_after
            pause = delay(failures, first=_FIRST_SECONDS, most=_MOST_SECONDS, wish=wish)
            if clock() + pause > end:
                raise
            told(error, pause)
        cancel.wait(pause)


def _is_wanted(connection: socket.socket) -> bool:
    """Whether the agent says `100 Continue`, or nothing at all for a long while: then it doesn't
    know the word (RFC 9110, 10.1.1). What else it says is left to be read.

    Raises:
        Unavailable
    """
    end = time.monotonic() + _CONTINUE_SECONDS
    while (left := end - time.monotonic()) > 0:
        with _told():
            ready, _, _ = select.select([connection], [], [], left)
            if not ready:
                break
            head = connection.recv(_MAX_HEAD_BYTES, socket.MSG_PEEK)
        if not head:
            raise Unavailable("the agent closed the connection")
        if head[:12] != b"HTTP/1.1 100"[: len(head)] or len(head) == _MAX_HEAD_BYTES:
            return False
        length = head.find(b"\r\n\r\n") + 4
        if length > 3:
            with _told():
                connection.recv(length)
            return True
        # The rest is on its way, or never comes, which looking can't tell.
        end = min(end, time.monotonic() + _REST_SECONDS)
        time.sleep(0.01)
    else:
        raise Unavailable("the agent's answer ends before it says anything")
    return True


def _send(
    connection: http.client.HTTPConnection,
    read: Callable[[int], bytes],
    size: int,
    cancel: Cancel,
) -> None:
    """Send the body. Where the agent closes before its end, it has said why."""
    left = size
    while left:
        cancel.check()
        chunk = read(min(CHUNK_BYTES, left))
        if not chunk:
            raise OSError("the archive became shorter while it was sent")
        try:
            connection.send(chunk)
        except TimeoutError as error:
            raise Unavailable("the agent takes nothing any more") from error
        except OSError:
            return
        left -= len(chunk)


def _answer(connection: http.client.HTTPConnection) -> bytes:
    """The body of an answer that says that it is done.

    Raises:
        Refused, Unavailable, AuthFailed
    """
    with _told():
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
    if response.status in (200, 201, 202, 204):
        return body
    said = _said(response.status, body)
    if response.status in _LATER:
        wish = _retry_after(response.headers.get("Retry-After"))
        raise Unavailable(said, retry_after=wish, overloaded=response.status in (429, 503))
    if response.status == 401:
        raise AuthFailed(said)
    raise Refused(said)


def _said(status: int, body: bytes) -> str:
    try:
        refusal = Refusal.model_validate_json(body)
    except ValidationError:
        return f"the agent answers {status}"
    # Somebody else's words, on one line.
    words = "".join(each if each.isprintable() else " " for each in refusal.message)
    return f"the agent answers {status} {refusal.reason}: {words}"


def _retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` asks for (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal() and len(value) < 10:
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


@contextmanager
def _told() -> Iterator[None]:
    """Trouble on the way is ours.

    Raises:
        Unavailable
    """
    try:
        yield
    except (OSError, ValueError, http.client.HTTPException) as error:
        # A ValueError: the socket was closed while it was waited for.
        what = error.strerror if isinstance(error, OSError) else None
        raise Unavailable(f"the agent can't be reached: {what or type(error).__name__}") from error


def _shut(connection: socket.socket | None) -> None:
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
