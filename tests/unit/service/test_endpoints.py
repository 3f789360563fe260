from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import pytest
import structlog

from modelcache.errors import UsageError
from modelcache.service.endpoints import Answer, Endpoints, document, host_and_port, text


def fails() -> Answer:
    raise ZeroDivisionError


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    served = Endpoints(
        ("127.0.0.1", 0),
        {
            "/livez": lambda: text(200, "ok"),
            "/readyz": lambda: text(503, "not yet"),
            "/v1/node": lambda: document({"kind": "NodeCache"}),
            "/fails": fails,
        },
    )
    served.start()
    yield served
    served.close()


def ask(
    endpoints: Endpoints, path: str, method: str = "GET"
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(*endpoints.address, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.headers


def test_routes(endpoints: Endpoints) -> None:
    status, body, headers = ask(endpoints, "/livez?verbose")
    assert (status, body) == (200, "ok\n")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert ask(endpoints, "/readyz")[:2] == (503, "not yet\n")
    status, body, headers = ask(endpoints, "/v1/node")
    assert (status, json.loads(body)) == (200, {"kind": "NodeCache"})
    assert headers["Content-Type"] == "application/json"


def test_a_head_has_no_body(endpoints: Endpoints) -> None:
    status, body, headers = ask(endpoints, "/livez", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, "", "3")


def test_another_path_says_what_there_is(endpoints: Endpoints) -> None:
    status, body, _ = ask(endpoints, "/")
    assert status == 404
    assert "/livez" in body


def test_a_route_that_fails_is_an_answer_and_a_line_in_the_log(endpoints: Endpoints) -> None:
    with structlog.testing.capture_logs() as logs:
        status, body, _ = ask(endpoints, "/fails")
    assert status == 500
    assert "ZeroDivision" not in body
    assert [(line["event"], line["path"]) for line in logs if line["log_level"] == "error"] == [
        ("http.failed", "/fails")
    ]


def test_the_version_of_python_is_nobodys_business(endpoints: Endpoints) -> None:
    assert ask(endpoints, "/livez")[2]["Server"].strip() == "modelcache"


def test_an_address_that_is_taken_is_told_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}.*set --listen"):
            Endpoints(("127.0.0.1", port), {})


def test_no_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*_: object) -> str:
        raise AssertionError("a DNS that is away would hold up the start")

    monkeypatch.setattr(socket, "getfqdn", hangs)
    Endpoints(("0.0.0.0", 0), {}).close()


def test_addresses_are_written_as_in_a_url() -> None:
    assert host_and_port(("127.0.0.1", 80)) == "127.0.0.1:80"
    assert host_and_port(("::1", 80)) == "[::1]:80"
