"""modelcache verify, while others are at work on the root, and on a disk that fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelcache.api import Manifest
from modelcache.service import diskwatch
from modelcache.store import Damage, Store
from tests.support.store import digest_of, put
from tests.unit.cli.conftest import Command

SHARED = b"shared by both"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two models, the second of which shares a file with the first."""
    store = Store(tmp_path / "root")
    put(store, "first", {"own": b"its own", "shared": SHARED})
    put(store, "second", {"shared": SHARED, "other": b"another"})
    return store


def spoil(store: Store, content: bytes) -> None:
    blob = store.layout.blob(digest_of(content))
    blob.chmod(0o644)
    blob.write_bytes(bytes(len(content)))


def while_read(monkeypatch: pytest.MonkeyPatch, content: bytes, act: Callable[[], object]) -> None:
    """Have something happen once, when the first byte of a blob was read."""
    really = os.preadv
    todo = [act]

    def read(fd: int, *given: Any) -> int:
        size = really(fd, *given)
        if todo and os.readlink(f"/proc/self/fd/{fd}").endswith(digest_of(content)):
            todo.pop()()
        return size

    monkeypatch.setattr(os, "preadv", read)


def test_what_is_damaged_is_withdrawn_before_the_next_is_read(
    command: Command, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops it after hours has not read in vain, and is told what was found."""
    spoil(store, b"its own")
    really = Store.verify

    def verify(self: Store, manifest: Manifest, *given: Any) -> list[Damage]:
        if manifest.model == "second":
            raise KeyboardInterrupt
        return really(self, manifest, *given)

    monkeypatch.setattr(Store, "verify", verify)
    ended = command("verify", "--root", store.layout.root)
    assert ended.code == 130
    assert "own: its content has changed" in ended.out
    assert store.current("first") is None
    assert store.current("second") is not None


def test_what_two_models_share_is_told_of_both(command: Command, store: Store) -> None:
    spoil(store, SHARED)
    ended = command("verify", "--root", store.layout.root, "-o", "json")
    told = {each["model"]: each["damaged"] for each in ended.document["snapshots"]}
    damage = {
        "path": "shared",
        "message": "its content has changed",
        "ranges": [[0, len(SHARED)]],
    }
    assert (ended.code, told) == (5, {"first": [damage], "second": [damage]})
    assert store.manifests() == []
    assert len(store.quarantine.all()) == 1


@pytest.mark.parametrize("content", [b"its own", SHARED], ids=["own", "shared"])
def test_what_is_evicted_while_it_is_read_is_no_damage(
    command: Command, store: Store, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    while_read(monkeypatch, content, lambda: store.evict("first"))
    ended = command("verify", "--root", store.layout.root, "-o", "json")
    told = [(s["model"], s["gone"], s["damaged"]) for s in ended.document["snapshots"]]
    assert (ended.code, told) == (0, [("first", True, []), ("second", False, [])])
    assert store.current("second") is not None


@pytest.mark.parametrize("down", [True, False])
def test_what_can_t_be_read_is_the_disk_s_fault_or_the_file_s(
    command: Command, store: Store, monkeypatch: pytest.MonkeyPatch, down: bool
) -> None:
    """A dying disk must not have all its content withdrawn, one model after the other."""
    really = os.preadv

    def fail(fd: int, *given: Any) -> int:
        if "blobs" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(5, "Input/output error")
        return really(fd, *given)

    def probe(_: Path) -> None:
        if down:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    monkeypatch.setattr(diskwatch, "probe", probe)
    ended = command("verify", "--root", store.layout.root)
    assert ended.code == (1 if down else 5)
    assert ("look at it (dmesg, smartctl)" in ended.err) == down
    assert len(store.manifests()) == (2 if down else 0)
