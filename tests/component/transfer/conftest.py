from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcache.transfer import TransferSettings
from tests.support.fetching import QUICK, Fetching
from tests.support.hub import HubServer
from tests.support.registry import Registry
from tests.support.web import web, web_server

__all__ = ["web", "web_server"]

MakeFetching = Callable[..., Fetching]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    with Registry() as server:
        yield server


@pytest.fixture
def make_fetching(tmp_path: Path) -> Iterator[MakeFetching]:
    made: list[Fetching] = []

    def make(settings: TransferSettings = QUICK, **given: Any) -> Fetching:
        made.append(Fetching(tmp_path / "root", settings, **given))
        return made[-1]

    yield make
    for fetching in made:
        fetching.close()


@pytest.fixture
def fetching(make_fetching: MakeFetching) -> Fetching:
    return make_fetching()
