"""Captures by processes that are killed at each step, beside others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.engines.table import BUILT_IN
from modelcache.compilecache.starts import staging
from modelcache.compilecache.starts.capturing import capture
from tests.support.seeds import killed_at_each_step
from tests.support.trees import content, plant

OTHER = BUILT_IN["other"]
EVIDENCE = Evidence(source="files", ready=True)
FILES = {"a/one": b"1", "a/b/two": b"22", "three": b"333"}


def test_a_kill_at_any_step_leaves_nothing_outside_of_the_staging(tmp_path: Path) -> None:
    cache_dir, into = plant(tmp_path / "cache", FILES), tmp_path / "staging"
    with capture(OTHER, cache_dir, into=into, evidence=EVIDENCE) as captured:
        facts = captured.facts
    left, steps = 0, 0
    for _ in killed_at_each_step(lambda: capture(OTHER, cache_dir, into=into, evidence=EVIDENCE)):
        steps += 1
        assert content(cache_dir) == FILES
        assert sorted(os.listdir(tmp_path)) == ["cache", "staging"]
        left += any(into.iterdir())
        with capture(OTHER, cache_dir, into=into, evidence=EVIDENCE) as captured:
            assert captured.facts == facts
            assert len(os.listdir(into)) == 2, "what the killed one left is still there"
        assert os.listdir(into) == []
    assert steps > 30
    assert left > 20


def test_what_another_process_is_making_is_left_alone(tmp_path: Path) -> None:
    cache_dir, into = plant(tmp_path / "cache", FILES), tmp_path / "staging"
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        capture(OTHER, cache_dir, into=into, evidence=EVIDENCE)
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    (theirs,) = into.glob("capture-*/archive.tar.zst")
    with capture(OTHER, cache_dir, into=into, evidence=EVIDENCE):
        assert theirs.exists()
    assert theirs.exists()
    os.write(done[1], b"x")
    os.waitpid(pid, 0)
    staging.clean(into)
    assert os.listdir(into) == []


def test_other_files_in_the_staging_are_nobodys_business(tmp_path: Path) -> None:
    cache_dir = plant(tmp_path / "cache", FILES)
    into = plant(tmp_path / "staging", {"mine": b"", "captured/x": b""})
    with capture(OTHER, cache_dir, into=into, evidence=EVIDENCE):
        pass
    assert sorted(content(into)) == ["captured/x", "mine"]


def test_where_locks_do_nothing_only_what_is_old_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "locks_work", lambda _: False)
    into = plant(tmp_path / "staging", {"capture-new/x": b"", "capture-old/x": b""})
    long_ago = time.time() - staging.ABANDONED_SECONDS - 60
    os.utime(into / "capture-old", (long_ago, long_ago))
    staging.clean(into)
    assert sorted(content(into)) == ["capture-new/x"]
