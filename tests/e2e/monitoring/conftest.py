from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.monitoring.story import Story
from tests.e2e.monitoring.world import world
from tests.support.cluster.fixtures import bare_control_plane, control_plane
from tests.support.cluster.plane import ControlPlane

__all__ = ["bare_control_plane", "control_plane"]


@pytest.fixture(scope="module")
def told(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The story, when it has happened; Prometheus and most programs still run."""
    with world(control_plane, tmp_path_factory.mktemp("world")) as found:
        story = Story(found)
        story.tell()
        yield story
