from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcache.cluster.client import Client
from tests.support.apifaults import ApiFaults
from tests.support.cluster.fixtures import bare_control_plane, cluster, control_plane, three_nodes
from tests.support.cluster.plane import ControlPlane

__all__ = ["bare_control_plane", "cluster", "control_plane", "three_nodes"]


@pytest.fixture
def faults(cluster: ControlPlane) -> Iterator[ApiFaults]:
    """A way to the API server on which faults can be made."""
    with ApiFaults(cluster.url, cluster.ca) as proxy:
        yield proxy


@pytest.fixture
def admin(cluster: ControlPlane) -> Iterator[Client]:
    """A client that may do everything, directly."""
    client = Client.connect(cluster.kubeconfig)
    yield client
    client.close()


@pytest.fixture
def faulty(cluster: ControlPlane, faults: ApiFaults, tmp_path: Path) -> Iterator[Client]:
    """The same, by way of the faults, with little patience."""
    client = Client.connect(faults.kubeconfig(cluster.kubeconfig, tmp_path / "faulty.kubeconfig"))
    yield client.within(2.0)
    client.close()
