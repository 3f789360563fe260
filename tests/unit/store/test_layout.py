"""Which directories become a cache, and which are left alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from modelcache.errors import StoreDamaged
from modelcache.store import Store
from modelcache.store.layout import open_layout


def test_an_empty_directory_becomes_a_cache(tmp_path: Path) -> None:
    open_layout(tmp_path)
    assert json.loads((tmp_path / "layout.json").read_bytes())["version"] == 1


def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    assert open_layout(tmp_path / "a" / "b").marker.exists()


def test_foreign_files_are_tolerated_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir(mode=0o700)
    (tmp_path / "notes.txt").write_text("mine")
    Store(tmp_path).sweep(older_than=0)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "lost+found").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["models", "hub", "blobs", "manifests"])
def test_foreign_content_under_a_name_of_ours_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "something").mkdir(parents=True)
    with pytest.raises(StoreDamaged, match="no layout"):
        open_layout(tmp_path)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["blobs", "manifests", "keys"])
def test_so_is_an_empty_directory_that_nobody_makes_for_us(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(StoreDamaged, match="no layout"):
        open_layout(tmp_path)


def test_what_kubelet_makes_for_a_pod_before_any_agent_is_no_content(tmp_path: Path) -> None:
    for name in ("models", "hub", "compile/llama"):
        (tmp_path / name).mkdir(parents=True)
    assert open_layout(tmp_path).marker.exists()


@pytest.mark.parametrize("path", ["compile/llama/current", "compile/notes.txt"])
def test_what_somebody_has_put_below_compile_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("")
    with pytest.raises(StoreDamaged, match="no layout"):
        open_layout(tmp_path)


def test_a_crash_before_the_marker_is_no_foreign_content(tmp_path: Path) -> None:
    (tmp_path / "ingest" / "scratch").mkdir(parents=True)
    assert open_layout(tmp_path).marker.exists()


def test_the_marker_is_written_before_any_name_that_would_be_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = os.mkdir

    def mkdir(path: Path, mode: int = 0o777) -> None:
        if (tmp_path / "layout.json").exists() is False:
            made.append(Path(path).name)
        real(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    open_layout(tmp_path)
    assert made == ["ingest", "scratch"]


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "layout.json").write_text('{"version": 2, "id": "x"}')
    with pytest.raises(StoreDamaged, match="layout version 2"):
        open_layout(tmp_path)
    assert os.listdir(tmp_path) == ["layout.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", "\0\0"])
def test_a_torn_marker_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "layout.json").write_text(content)
    with pytest.raises(StoreDamaged, match="can't be read"):
        open_layout(tmp_path)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(StoreDamaged):
        open_layout(tmp_path / "root")


def test_what_pods_read_has_its_mode_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        layout = open_layout(tmp_path / "root")
    finally:
        os.umask(before)
    for folder in (layout.root, layout.root / "models", layout.root / "hub"):
        assert folder.stat().st_mode & 0o777 == 0o755
