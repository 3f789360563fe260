from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.monitoring.story import REPLACED, SHORTER, Story
from tests.e2e.monitoring.world import world
from tests.support.cluster.fixtures import bare_control_plane, control_plane
from tests.support.cluster.plane import ControlPlane
from tests.support.shorterrules import shorter

__all__ = ["bare_control_plane", "control_plane"]

RULES = Path(__file__).parents[3] / "dashboards" / "rules"


@pytest.fixture(scope="module")
def story(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The story, when it has happened; Prometheus and what was not killed still run."""
    folder = tmp_path_factory.mktemp("world")
    rules = [
        shorter(RULES / name, folder / name, SHORTER, REPLACED)
        for name in ("recording.yaml", "alerts.yaml")
    ]
    with world(control_plane, folder, rules) as found:
        told = Story(found)
        told.tell()
        yield told
