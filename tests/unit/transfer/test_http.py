"""What an answer may get wrong, one by one, from a server that says what the test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from modelcache.errors import (
    AuthFailed,
    ModelCacheError,
    NotFound,
    OriginChanged,
    OriginUnavailable,
    RateLimited,
)
from modelcache.origins.protocol import HttpLocation
from modelcache.transfer import Cancel
from modelcache.transfer.answers import LocationExpired
from modelcache.transfer.http import HttpClient

BODY = bytes(range(256)) * 4
SIZE = len(BODY)
Script = list[tuple[int, dict[str, str], bytes]]


class Server(ThreadingHTTPServer):
    """Gives the script's answers, one for each request; the last one again and again."""

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Handler)
        self.script: Script = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        self.hangs_up = False

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up in the middle is what some tests are about

    def get_request(self) -> tuple[socket.socket, Any]:
        self.connections += 1
        return super().get_request()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        seen = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.path, seen))
        script = self.server.script
        status, headers, body = script.pop(0) if len(script) > 1 else script[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.server.hangs_up or self.close_connection

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[Server]:
    with Server(host) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def client() -> Iterator[HttpClient]:
    client = HttpClient(read_timeout=2.0)
    yield client
    client.close()


def get(
    client: HttpClient, location: HttpLocation | str, start: int = 0, end: int = SIZE
) -> tuple[int, bytes]:
    """The offset that the body begins at, and the body."""
    if isinstance(location, str):
        location = HttpLocation(location)
    with client.get(location, start, end, SIZE, Cancel()) as body:
        buffer = memoryview(bytearray(2 * SIZE))
        size = body.readinto(buffer)
        return body.start, bytes(buffer[:size])


def part(start: int, end: int, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return 206, {"Content-Range": f"bytes {start}-{end - 1}/{SIZE}", **headers}, BODY[start:end]


def test_a_range_and_a_whole(client: HttpClient, server: Server) -> None:
    server.script = [part(10, 20), (200, {}, BODY)]
    assert get(client, server.url, 10, 20) == (10, BODY[10:20])
    assert get(client, server.url) == (0, BODY)
    assert server.seen[0][1]["range"] == "bytes=10-19"
    assert "range" not in server.seen[1][1]
    assert server.seen[0][1]["accept-encoding"] == "identity"
    assert server.connections == 1, "the connection was not reused"


def test_a_whole_in_place_of_a_range_says_where_it_begins(
    client: HttpClient, server: Server
) -> None:
    server.script = [(200, {}, BODY)]
    assert get(client, server.url, 10, 20) == (0, BODY)


WRONG: list[tuple[tuple[int, dict[str, str], bytes], type[ModelCacheError]]] = [
    ((206, {}, BODY[10:20]), OriginUnavailable),
    ((206, {"Content-Range": "bytes 11-20/1024"}, BODY[11:21]), OriginUnavailable),
    ((206, {"Content-Range": "bytes 10-30/1024"}, BODY[10:31]), OriginUnavailable),
    ((206, {"Content-Range": "bytes 10-19/1024"}, BODY[10:19]), OriginUnavailable),
    ((206, {"Content-Range": "bytes 10-19/999"}, BODY[10:20]), OriginChanged),
    ((206, {"Content-Range": "pages 1-2/3"}, BODY[10:20]), OriginUnavailable),
    ((206, {"Content-Range": f"bytes 10-19/{'9' * 5000}"}, BODY[10:20]), OriginUnavailable),
    ((200, {}, BODY[:-1]), OriginChanged),
    ((200, {"Content-Encoding": "gzip"}, BODY), OriginUnavailable),
    ((204, {}, b""), OriginUnavailable),
    ((401, {}, b""), AuthFailed),
    ((403, {}, b""), AuthFailed),
    ((404, {}, b""), NotFound),
    ((410, {}, b""), NotFound),
    ((412, {}, b""), OriginChanged),
    ((416, {}, b""), OriginChanged),
    ((429, {"Retry-After": "7"}, b""), RateLimited),
    ((503, {}, b"<Code>SlowDown</Code>"), RateLimited),
    ((503, {"Retry-After": "7"}, b""), OriginUnavailable),
    ((302, {"Location": "ftp://x/y"}, b""), OriginUnavailable),
    ((302, {"Location": "https://[bad"}, b""), OriginUnavailable),
    ((302, {"Location": "http://h:99999/"}, b""), OriginUnavailable),
    ((302, {"Location": "http://h/\xe9"}, b""), OriginUnavailable),
    ((302, {"Location": "http://a..127.0.0.1/"}, b""), OriginUnavailable),
    ((302, {}, b""), OriginUnavailable),
]


@pytest.mark.parametrize(("answer", "error"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_a_wrong_answer_is_refused(
    client: HttpClient,
    server: Server,
    answer: tuple[int, dict[str, str], bytes],
    error: type[ModelCacheError],
) -> None:
    server.script = [answer]
    with pytest.raises(error) as raised:
        get(client, f"{server.url}/f?signature=secret", 10, 20)
    assert type(raised.value) is error
    assert "secret" not in str(raised.value)
    if "Retry-After" in answer[1]:
        assert isinstance(raised.value, OriginUnavailable)
        assert raised.value.retry_after == 7.0


def test_a_refusal_of_a_renewable_location_may_be_its_age(
    client: HttpClient, server: Server
) -> None:
    server.script = [(403, {}, b"")]
    with pytest.raises(LocationExpired):
        get(client, HttpLocation(server.url, renewable=True))


def test_an_entity_tag_that_is_another_is_refused(client: HttpClient, server: Server) -> None:
    server.script = [part(0, 5, ETag='"new"')]
    with pytest.raises(OriginChanged):
        get(client, HttpLocation(server.url, if_match='"old"'), 0, 5)
    assert server.seen[0][1]["if-match"] == '"old"'


@pytest.mark.parametrize("now", ["Tue, 02 Jan 2024 00:00:00 GMT", None])
def test_a_date_that_is_another_is_refused(
    client: HttpClient, server: Server, now: str | None
) -> None:
    then = "Mon, 01 Jan 2024 00:00:00 GMT"
    location = HttpLocation(server.url, unmodified_since=then)
    server.script = [part(0, 5, **({"Last-Modified": now} if now else {}))]
    with pytest.raises(OriginChanged, match="last modified"):
        get(client, location, 0, 5)
    server.script = [part(0, 5, **{"Last-Modified": then})]
    assert get(client, location, 0, 5) == (0, BODY[:5])
    assert [headers["if-unmodified-since"] for _, headers in server.seen] == [then, then]


def test_a_mirror_has_to_show_the_entity_tag(client: HttpClient, server: Server) -> None:
    location = HttpLocation(server.url, if_match='"tag"', mirror=server.url)
    server.script = [part(0, 5)]
    with pytest.raises(OriginChanged):
        get(client, location, 0, 5)
    server.script = [part(0, 5, ETag='"tag"')]
    assert get(client, location, 0, 5) == (0, BODY[:5])


def test_headers_go_to_the_locations_host_only(client: HttpClient, server: Server) -> None:
    with serving("127.0.0.2") as other:
        other.script = [(200, {}, BODY)]
        server.script = [
            (307, {"Location": "/elsewhere"}, b"moved"),
            (302, {"Location": f"{other.url}/cdn"}, b""),
        ]
        location = HttpLocation(
            f"{server.url}/f", headers={"Authorization": "Bearer t"}, if_match='"tag"'
        )
        assert get(client, location) == (0, BODY)
        assert [headers.get("authorization") for _, headers in server.seen] == ["Bearer t"] * 2
        assert "authorization" not in other.seen[0][1]
        assert other.seen[0][1]["if-match"] == '"tag"', "who sends the bytes has to know it"


def test_headers_don_t_come_back_after_a_detour(client: HttpClient, server: Server) -> None:
    with serving("127.0.0.2") as other:
        other.script = [(302, {"Location": f"{server.url}/back"}, b"")]
        server.script = [(302, {"Location": f"{other.url}/"}, b""), (200, {}, BODY)]
        get(client, HttpLocation(f"{server.url}/f", headers={"Authorization": "Bearer t"}))
        assert "authorization" not in server.seen[1][1]


def test_what_no_digest_checks_is_not_fetched_elsewhere_without_tls(
    client: HttpClient, server: Server
) -> None:
    server.script = [(302, {"Location": "http://192.0.2.1/"}, b"")]
    with pytest.raises(OriginUnavailable, match="without TLS"):
        get(client, HttpLocation(server.url, if_match='"tag"'))


def test_redirects_in_circles_end(client: HttpClient, server: Server) -> None:
    server.script = [(302, {"Location": "/again"}, b"")]
    with pytest.raises(OriginUnavailable, match="circles"):
        get(client, server.url)


def test_a_server_that_hung_up_an_idle_connection_is_asked_again(
    client: HttpClient, server: Server
) -> None:
    server.script = [(200, {}, BODY)]
    server.hangs_up = True
    for _ in range(3):
        assert get(client, server.url) == (0, BODY)
    assert server.connections == 3


def test_nobody_there(client: HttpClient) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OriginUnavailable, match="can't be reached"):
            get(client, f"http://127.0.0.1:{taken.getsockname()[1]}/")


def test_a_name_that_is_not_known(client: HttpClient) -> None:
    with pytest.raises(OriginUnavailable, match="can't be reached"):
        get(client, "http://no-such-host.invalid/")
