from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster.fixtures import bare_control_plane, cluster, control_plane, three_nodes
from tests.support.hub import HubServer

__all__ = ["bare_control_plane", "cluster", "control_plane", "three_nodes"]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server
