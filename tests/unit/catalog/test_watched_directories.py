from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.catalog.watching import directories


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def test_of_a_file_its_directory(root: Path) -> None:
    (root / "a.yaml").touch()
    assert directories(root / "a.yaml") == {root}
    assert directories(root / "not-yet.yaml") == {root}


def test_a_directory_itself(root: Path) -> None:
    assert directories(root) == {root}


def test_of_a_directory_that_is_gone_the_one_above(root: Path) -> None:
    assert directories(root / "gone") == {root}


def test_a_relative_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "here").mkdir()
    monkeypatch.chdir(root / "here")
    assert directories(Path("../here/a.yaml")) == {root / "here"}


def test_each_directory_that_holds_a_link_on_the_way(root: Path) -> None:
    # As git-sync has it: current -> .worktrees/<commit>
    (root / "git" / ".worktrees" / "1" / "deep").mkdir(parents=True)
    (root / "git" / "current").symlink_to(".worktrees/1")
    (root / "link").symlink_to(root / "git" / "current" / "deep")
    assert directories(root / "link" / "a.yaml") == {
        root,
        root / "git",
        root / "git" / ".worktrees" / "1" / "deep",
    }


def test_a_file_of_a_configmap(root: Path) -> None:
    (root / "..2024").mkdir()
    (root / "..2024" / "a.yaml").touch()
    (root / "..data").symlink_to("..2024")
    (root / "a.yaml").symlink_to("..data/a.yaml")
    assert directories(root / "a.yaml") == {root, root / "..2024"}
    assert directories(root) == {root}


def test_a_circle(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        directories(root / "a")
