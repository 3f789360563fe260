"""The page as the agent serves it, with facts that tests choose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modelcache.service.endpoints import Answer, Endpoints
from modelcache.service.page import Facts, headers, page
from tests.support.chromium import Chromium
from tests.support.pages import EMPTY


class Served:
    """A server at whose `/` a page is. `facts` are what it tells next."""

    def __init__(self) -> None:
        self.facts: Facts = EMPTY
        self.asked = 0
        self._endpoints = Endpoints(("127.0.0.1", 0), {"/": self._answer})
        self._endpoints.start()
        host, port = self._endpoints.address
        self.url = f"http://{host}:{port}/"

    def _answer(self) -> Answer:
        self.asked += 1
        return 200, "text/html; charset=utf-8", page(self.facts).encode(), headers()

    def close(self) -> None:
        self._endpoints.close()


@pytest.fixture
def served() -> Iterator[Served]:
    running = Served()
    yield running
    running.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser
