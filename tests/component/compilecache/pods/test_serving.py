"""Whether an engine serves, asked of real servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from modelcache.compilecache.pods.serving import Serving
from modelcache.errors import Cancelled, UsageError
from modelcache.transfer import Cancel


class Engine(BaseHTTPRequestHandler):
    statuses: list[int]
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])
        self.end_headers()


@pytest.fixture
def engine() -> Iterator[tuple[type[Engine], int]]:
    handler = type("Handler", (Engine,), {"statuses": [200], "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield handler, server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "serves"), [(200, True), (302, True), (404, False), (503, False)]
)
def test_a_status_says_it(engine: tuple[type[Engine], int], status: int, serves: bool) -> None:
    handler, port = engine
    handler.statuses = [status]
    assert Serving.of(f"http://:{port}/health?x=1").look() is serves
    assert handler.asked == ["/health?x=1"]


def test_nobody_listens(engine: tuple[type[Engine], int]) -> None:
    _, port = engine
    # There is no TLS at that port: what is broken is not there.
    assert Serving.of(f"https://:{port}/").look() is False


def test_one_that_listens_at_the_pods_address_alone() -> None:
    handler = type("Handler", (Engine,), {"statuses": [200], "asked": []})
    server = ThreadingHTTPServer(("127.0.0.2", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://:{server.server_address[1]}/"
    assert Serving.of(url).look() is False
    assert Serving.of(url, "127.0.0.2").look() is True
    server.shutdown()
    server.server_close()


def test_it_is_waited_for(engine: tuple[type[Engine], int]) -> None:
    handler, port = engine
    handler.statuses = [503, 503, 200]
    serving = Serving.of(f"http://:{port}/health")
    assert serving.wait(Cancel(), every=0.01, seconds=10)
    assert len(handler.asked) == 3
    handler.statuses = [503]
    assert not serving.wait(Cancel(), every=0.01, seconds=0.05)
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        serving.wait(cancel, every=0.01, seconds=10)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "health",
            "http://:x/",
            "http://host:1/",
            "ftp://:1/",
            "http://:0/",
            "http://:99999/",
        ),
        *("http://a:b@:1/", "http://[:1/"),
    ],
)
def test_what_is_no_such_url_is_told(url: str) -> None:
    with pytest.raises(UsageError, match="health"):
        Serving.of(url)
