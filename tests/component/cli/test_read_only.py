"""Looking at a cache whose file system was made read-only: when one looks for what is there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcache.store import Store
from tests.support.sickdisk import sick_disk
from tests.support.store import COMMIT, OTHER_COMMIT, put
from tests.unit.cli.conftest import Command, command

__all__ = ["command"]

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two revisions of a model, and what a fetch was promised that died."""
    monkeypatch.setenv("MODELCACHE_LISTEN", "")
    with sick_disk(tmp_path / "disk", 64 << 20) as disk:
        store = Store(disk.place / "root")
        put(store, "tiny", {"w": b"1"}, commit=COMMIT)
        put(store, "tiny", {"w": b"2"}, commit=OTHER_COMMIT)
        store.leases.take("tiny", 3600.0, holder="somebody")
        stale = store.layout.reservations / "dead.0.json"
        stale.write_text('{"bytes": 1, "inodes": 1, "what": "dead"}')
        os.utime(stale, (time.time() - 86_400,) * 2)
        disk.make_read_only()
        yield store.layout.root


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ls", "tiny"),
        ("show tiny", "Ready"),
        ("status", "tiny"),
        ("explain tiny", "tiny is here, and shown"),
        ("labels", "modelcache.dev/model.tiny=Ready"),
        ("leases", "somebody"),
        ("verify --report-only", "whole"),
        ("gc --dry-run", "tiny"),
    ],
)
def test_who_only_looks_is_told(command: Command, root: Path, line: str, told: str) -> None:
    ended = command(*line.split(), "--root", root)
    assert (ended.code, told in ended.out) == (0, True), ended


@pytest.mark.parametrize("line", ["gc", "verify", "evict tiny", "lease tiny --for 1h"])
def test_who_would_change_something_is_refused(command: Command, root: Path, line: str) -> None:
    ended = command(*line.split(), "--root", root)
    assert (ended.code, "Read-only file system" in ended.mistake) == (1, True)
