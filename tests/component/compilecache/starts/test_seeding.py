"""Seeding by processes that are killed at each step, and on file systems of their own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from modelcache.compilecache.starts.seeding import STAGING_NAME, seed
from modelcache.compilecache.starts.seednotes import NOTE_NAME
from modelcache.errors import InsufficientDisk
from tests.support.mounts import tmpfs
from tests.support.seeds import bundle_of, engines_files, killed_at_each_step
from tests.support.trees import content

FILES = {"vllm/model": b"code", "vllm/modelinfos/a.json": b"{}", "triton/k/x.so": b"\x7fELF"}
MIB = 1024 * 1024


def test_after_a_kill_at_any_step_the_next_one_makes_it_whole(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "made", FILES)
    cache_dir = tmp_path / "cache"
    before, seen = content(tmp_path / "made"), list[str]()
    for _ in killed_at_each_step(lambda: seed(bundle, cache_dir)):
        names = os.listdir(cache_dir) if cache_dir.exists() else []
        if NOTE_NAME in names:
            seen.append("done")
            assert engines_files(cache_dir) == FILES
        elif {"vllm", "triton"} & set(names):
            seen.append("half moved")
            assert STAGING_NAME in names
        else:
            seen.append("staged" if names else "nothing")
        assert seed(bundle, cache_dir).how == ("kept" if NOTE_NAME in names else "unpacked")
        assert engines_files(cache_dir) == FILES
        assert sorted(os.listdir(cache_dir)) == [NOTE_NAME, "triton", "vllm"]
        shutil.rmtree(cache_dir)
    assert {"nothing", "staged", "half moved", "done"} == set(seen)
    assert len(seen) > 30
    assert content(tmp_path / "made") == before


@pytest.mark.root
def test_a_mount_point_is_seeded_and_a_small_one_stays_empty(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "made", FILES | {"vllm/big": os.urandom(8 * MIB)})
    with tmpfs(tmp_path / "cache", 32 * MIB) as cache_dir:
        assert seed(bundle, cache_dir).how == "unpacked"
        assert engines_files(cache_dir).keys() == FILES.keys() | {"vllm/big"}
    with tmpfs(tmp_path / "small", 4 * MIB) as cache_dir:
        with pytest.raises(InsufficientDisk, match="has room for"):
            seed(bundle, cache_dir)
        assert os.listdir(cache_dir) == []


@pytest.mark.root
def test_where_the_disk_fills_up_meanwhile_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_of(tmp_path / "made", FILES | {"vllm/big": os.urandom(8 * MIB)})
    monkeypatch.setattr("modelcache.compilecache.starts.seeding.check_room", lambda *_: None)
    with tmpfs(tmp_path / "small", 4 * MIB) as cache_dir:
        with pytest.raises(InsufficientDisk):
            seed(bundle, cache_dir)
        assert os.listdir(cache_dir) == []
