from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.starts.marks import Marks
from modelcache.store import Store
from modelcache.store.durable import Durable


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def durable(store: Store) -> Durable:
    return Durable(store.layout.scratch)


@pytest.fixture
def holding(store: Store, durable: Durable) -> Holding:
    return Holding(store.layout, durable)


@pytest.fixture
def marks(store: Store, durable: Durable) -> Marks:
    return Marks(store.layout, durable)
