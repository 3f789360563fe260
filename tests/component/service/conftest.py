from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.component.service.daemon import Daemon
from tests.support.hub import HubServer


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def daemon(tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    running = Daemon(tmp_path / "root")
    yield running
    running.close()
