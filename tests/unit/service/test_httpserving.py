"""What each of our HTTP servers bounds, over real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest

from modelcache.service import tlsserving
from modelcache.service.certificates import make_certificate
from modelcache.service.endpoints import text
from modelcache.service.httpserving import Handler, Server, Serving, listen
from modelcache.service.tlsserving import TlsServer

MOST = 8
SOME_SECONDS = 20.0
ONE, OTHER = "127.0.0.1", "127.0.0.2"
GET = b"GET / HTTP/1.1\r\n"


class Small(Server):
    name = "small"
    most_connections = MOST
    first_seconds = next_seconds = head_seconds = SOME_SECONDS
    answer: Callable[[], bytes]


class Answers(Handler):
    server: Small

    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        self.server.keep(self.connection)
        self.send(200, "text/plain", self.server.answer())


class Bench:
    """A server, and connections to it that end with the test."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = listen((ONE, 0), Small, Answers, setting="--x")
        self.server.answer = lambda: b"ok"
        self.serving = Serving(self.server)
        self.serving.start()
        self._stack = stack
        stack.callback(self.serving.close)

    def connect(self, host: str = ONE) -> socket.socket:
        return self._stack.enter_context(
            socket.create_connection(self.serving.address, 10, source_address=(host, 0))
        )


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


def ask(connection: socket.socket, request: bytes = GET + b"\r\n") -> bytes:
    """The answer to a request, or what came of it until the connection ended."""
    connection.sendall(request)
    got = b""
    while not got.endswith(b"ok"):
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        got += part
    return got


def has_ended(connection: socket.socket) -> bool:
    """Waits for the end."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_comes_last_gets_in_and_who_was_waited_for_longest_goes(bench: Bench) -> None:
    """All of them from one address, as the pods of a node may be behind a hostPort."""
    silent = [bench.connect() for _ in range(MOST + 3)]
    assert ask(bench.connect()).endswith(b"ok")
    assert all(map(has_ended, silent[:4]))
    # The rest are there still, and good for a request.
    assert all(ask(each).endswith(b"ok") for each in silent[4:])


def test_who_has_asked_was_not_waited_for_longest(bench: Bench) -> None:
    first, second, *_, last = [bench.connect() for _ in range(MOST)]
    assert ask(last).endswith(b"ok")  # so all are there
    assert ask(first).endswith(b"ok")
    bench.connect()
    assert has_ended(second)
    assert ask(first).endswith(b"ok")


def test_an_address_with_many_connections_takes_none_of_others(bench: Bench) -> None:
    others = [bench.connect(OTHER) for _ in range(2)]
    for _ in range(3 * MOST):
        bench.connect()
    assert all(ask(each).endswith(b"ok") for each in others)


def test_what_is_worked_on_stays_and_only_then_there_is_no_room(bench: Bench) -> None:
    go = threading.Event()
    begun = threading.Semaphore(0)

    def answer() -> bytes:
        begun.release()
        assert go.wait(10)
        return b"ok"

    bench.server.answer = answer
    working = [bench.connect() for _ in range(MOST)]
    for each in working:
        each.sendall(GET + b"\r\n")
    assert all(begun.acquire(timeout=10) for _ in working)
    assert has_ended(bench.connect())
    go.set()
    assert all(ask(each, b"").endswith(b"ok") for each in working)


def test_a_head_that_trickles_has_its_time_and_no_more(bench: Bench) -> None:
    bench.server.head_seconds = 0.3
    connection = bench.connect()
    connection.sendall(GET)
    began = time.monotonic()
    trickled(connection, b"X: y\r\n")
    assert 0.3 <= time.monotonic() - began < 5


def trickled(connection: socket.socket, part: bytes) -> None:
    """Send it again and again until the connection ends."""
    connection.settimeout(0.05)
    for _ in range(400):
        try:
            connection.sendall(part)
            if connection.recv(100) == b"":
                return
        except TimeoutError:
            continue
        except OSError:  # ended while we sent
            return
    raise AssertionError("it never ended")


def test_who_says_nothing_has_its_time_and_no_more(bench: Bench) -> None:
    bench.server.first_seconds = 0.3
    bench.server.next_seconds = 0.4
    began = time.monotonic()
    assert has_ended(bench.connect())
    bench.server.first_seconds = SOME_SECONDS
    connection = bench.connect()
    assert ask(connection).endswith(b"ok")
    assert has_ended(connection)
    assert 0.7 <= time.monotonic() - began < 6


def test_who_takes_no_answer_has_its_time_and_no_more(bench: Bench) -> None:
    """More than the kernel takes for a reader who doesn't read."""
    bench.server.answer = lambda: b"a" * 64_000_000
    bench.server.answer_seconds = 0.3
    connection = bench.connect()
    connection.sendall(GET + b"\r\n")
    gone(bench.server)


def gone(server: Server) -> None:
    """Wait until no thread has a connection."""
    deadline = time.monotonic() + 10
    while server._open and time.monotonic() < deadline:
        threading.Event().wait(0.01)  # nobody tells of it
    assert not server._open


def test_a_head_has_a_bound_in_all_and_not_only_in_each_line(bench: Bench) -> None:
    connection = bench.connect()
    answer = ask(connection, GET + 2 * (b"X: " + b"a" * 50_000 + b"\r\n"))
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_half_a_head_is_no_request(bench: Bench) -> None:
    """What was cut off would be judged by the headers that came: without its token."""
    asked: list[bool] = []
    bench.server.answer = lambda: asked.append(True) or b"ok"  # type: ignore[func-returns-value]
    connection = bench.connect()
    connection.sendall(GET + b"X: y\r\n")
    connection.shutdown(socket.SHUT_WR)
    assert has_ended(connection)
    assert not asked


def test_it_ends_at_once_and_nobody_comes_in_any_more(bench: Bench) -> None:
    address = bench.serving.address
    bench.connect()
    slowest = 0.0
    for _ in range(5):
        other = Serving(listen((ONE, 0), Small, Answers, setting="--x"))
        other.start()
        began = time.monotonic()
        other.close()
        slowest = max(slowest, time.monotonic() - began)
    # It looks for its end twice a second if nothing wakes it.
    assert slowest < 0.4
    bench.serving.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 5)


@pytest.fixture
def secure() -> Iterator[tuple[TlsServer, ssl.SSLContext]]:
    shown = make_certificate(["127.0.0.1"], timedelta(days=1))
    server = TlsServer((ONE, 0), "/mutate", lambda body: text(200, f"{len(body)} ok"))
    server.show(shown.chain, shown.key)
    server.start()
    yield server, ssl.create_default_context(cadata=shown.authorities.decode())
    server.close()


def test_with_tls_as_well(
    secure: tuple[TlsServer, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, context = secure
    monkeypatch.setattr(tlsserving._Server, "most_connections", MOST)
    with ExitStack() as stack:

        def connect() -> ssl.SSLSocket:
            plain = stack.enter_context(socket.create_connection(server.address, 10))
            return stack.enter_context(context.wrap_socket(plain, server_hostname=ONE))

        head = b"POST /mutate HTTP/1.1\r\nContent-Length: 3\r\n\r\n"
        first = connect()
        first.sendall(head + b"abc")
        assert first.recv(1000).startswith(b"HTTP/1.1 200 ")
        silent = [connect() for _ in range(MOST)]
        assert has_ended(first)
        last = connect()
        last.sendall(head + b"abc")
        assert last.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert has_ended(silent[0])
        # Two seconds for the head, however it trickles.
        began = time.monotonic()
        last.sendall(b"POST /mutate HTTP/1.1\r\n")
        trickled(last, b"X: y\r\n")
        assert 1.5 < time.monotonic() - began < 5
