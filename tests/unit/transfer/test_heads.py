"""Answers that never begin."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from modelcache.errors import OriginUnavailable
from modelcache.origins import HttpLocation, heads
from modelcache.transfer import Cancel
from modelcache.transfer.http import HttpClient


@contextmanager
def saying(say: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that says something to each client, whatever it asks."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    with client, suppress(OSError):
                        client.recv(65536)
                        say(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/f"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def endlessly(part: bytes, first: bytes = b"") -> Callable[[socket.socket], None]:
    def say(client: socket.socket) -> None:
        client.sendall(first)
        while True:
            client.sendall(part)

    return say


def slowly(client: socket.socket) -> None:
    """A byte now and then, so that the connection is never silent for long."""
    client.settimeout(0.02)
    client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        client.sendall(b"x")
        with suppress(TimeoutError):
            if not client.recv(1):
                return


ENDLESS = {
    "provisional answers": endlessly(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "a status line": endlessly(b"x" * 10_000, b"HTTP/1.1 200 "),
    "a header": endlessly(b"x" * 10_000, b"HTTP/1.1 200 OK\r\nX: "),
    "headers": endlessly(b"Link: <x>; rel=next\r\n" * 100, b"HTTP/1.1 200 OK\r\n"),
    "headers of a provisional answer": endlessly(b"X: y\r\n" * 100, b"HTTP/1.1 100 Go\r\n"),
}


def fetch(url: str) -> bytes:
    client = HttpClient(read_timeout=5.0)
    try:
        with client.get(HttpLocation(url), 0, 2, 2, Cancel()) as body:
            buffer = bytearray(2)
            return bytes(buffer[: body.readinto(memoryview(buffer))])
    finally:
        client.close()


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.timeout(30)
def test_a_head_without_end_is_given_up(what: str) -> None:
    with saying(ENDLESS[what]) as url, pytest.raises(OriginUnavailable, match="can't be reached"):
        fetch(url)


@pytest.mark.timeout(30)
def test_a_head_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MOST_SECONDS", 0.5)
    with saying(slowly) as url, pytest.raises(OriginUnavailable, match="no answer in time"):
        fetch(url)


def test_a_provisional_answer_is_passed_over() -> None:
    whole = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with saying(lambda client: client.sendall(whole)) as url:
        assert fetch(url) == b"ok"
