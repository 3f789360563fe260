from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.hub import HubServer


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server
