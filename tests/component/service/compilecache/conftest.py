from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.component.service.compilecache.node import Node
from tests.component.service.compilecache.place import Bench, run


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """With the model in the root, and nothing else."""
    found = Bench(tmp_path)
    run(found)
    return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """It listens until the test's end."""
    found = Node(tmp_path)
    yield found
    found.listener.close()
