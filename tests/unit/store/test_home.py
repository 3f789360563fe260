"""Where a root is, told by what no copy of it has."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from modelcache.store import Store
from modelcache.store.durable import Durable
from modelcache.store.home import home_of, note_home, noted_home


@pytest.fixture
def noted(tmp_path: Path) -> Store:
    store = Store(tmp_path / "root")
    assert noted_home(store.layout) is None
    note_home(store.layout, Durable(store.layout.scratch), home_of(store.layout, "n"))
    return store


def test_it_stays_over_renames_links_and_changes_of_mode(noted: Store, tmp_path: Path) -> None:
    root = noted.layout.root
    (root / "layout.json").chmod(0o664)
    (tmp_path / "link").hardlink_to(root / "layout.json")
    root.rename(tmp_path / "moved")
    layout = Store(tmp_path / "moved").layout
    assert noted_home(layout) == home_of(layout, "n")


def test_a_copy_is_elsewhere(noted: Store, tmp_path: Path) -> None:
    shutil.copytree(noted.layout.root, tmp_path / "copy")
    layout = Store(tmp_path / "copy").layout
    assert noted_home(layout) != home_of(layout, "n")
    # Another disk may give the same number again.
    here, there = home_of(noted.layout, "n"), home_of(layout, "n")
    assert here.born_at is not None
    assert here != replace(there, inode=here.inode)


def test_another_machine_is_elsewhere(noted: Store) -> None:
    assert noted_home(noted.layout) != home_of(noted.layout, "m")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b'{"cache": "x"}', b"\xff" * 9000])
def test_a_note_that_can_t_be_read_is_none(noted: Store, content: bytes) -> None:
    noted.layout.home.write_bytes(content)
    assert noted_home(noted.layout) is None


def test_a_cache_without_an_id_has_a_home(noted: Store) -> None:
    noted.layout.marker.write_text(json.dumps({"version": 1}))
    assert home_of(noted.layout, "n").cache == ""
