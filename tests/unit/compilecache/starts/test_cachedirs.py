"""Whose a cache directory is, and when what is in it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.compilecache.bundles.manifest import BundleManifest
from modelcache.compilecache.starts.cachedirs import CacheDirectory, Taken, taken
from modelcache.compilecache.starts.seednotes import write_note

KEY, OTHER = "a" * 64, "b" * 64
DIGEST, NEWER = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".modelcache-")}


def left(folder: Path, key: str, digest: str | None = None) -> None:
    """What an earlier start left; with a note, if it was seeded or captured."""
    with taken(folder) as directory:
        directory.prepare(key, None)
    (folder / "inductor").mkdir()
    (folder / "inductor" / "code.py").write_text("x")
    if digest is not None:
        write_note(folder, digest, BundleManifest(files=()))


def test_a_directory_is_made(tmp_path: Path) -> None:
    with taken(tmp_path / "a" / "b") as directory:
        assert not directory.prepare(KEY, DIGEST)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755


def test_one_start_has_it_at_a_time(tmp_path: Path) -> None:
    with taken(tmp_path), pytest.raises(Taken, match="another start has"), taken(tmp_path):
        pass
    with taken(tmp_path):
        pass


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with taken(tmp_path) as directory, pytest.raises(Taken, match=r"not empty \(thesis.tex\)"):
        directory.prepare(KEY, DIGEST)
    assert names(tmp_path) == {"thesis.tex"}


def test_a_fresh_file_system_is_empty(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    with taken(tmp_path) as directory:
        assert not directory.prepare(KEY, None)
    assert names(tmp_path) == {"lost+found"}


@pytest.mark.parametrize(
    ("before", "wanted", "stays"),
    [
        ((KEY, None), (KEY, None), True),  # nothing better is to be had
        ((KEY, None), (KEY, DIGEST), False),
        ((KEY, DIGEST), (KEY, DIGEST), True),
        ((KEY, DIGEST), (KEY, NEWER), False),
        ((KEY, DIGEST), (OTHER, None), False),
        ((KEY, DIGEST), (OTHER, DIGEST), False),
    ],
)
def test_what_an_earlier_start_left_stays_as_long_as_it_is_of_use(
    tmp_path: Path, before: tuple[str, str | None], wanted: tuple[str, str | None], stays: bool
) -> None:
    left(tmp_path, *before)
    with taken(tmp_path) as directory:
        kept = directory.prepare(*wanted)
    assert names(tmp_path) == ({"inductor"} if stays else set())
    assert kept == (stays and wanted[1] is None)
    assert (tmp_path / ".modelcache-seed.json").exists() == (stays and before[1] is not None)


@pytest.mark.parametrize("digest", [None, DIGEST])
def test_what_was_half_emptied_is_of_use_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str | None
) -> None:
    left(tmp_path, KEY, digest)

    def killed(path: Path) -> None:
        (path / "code.py").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as cut_short:
        cut_short.setattr(f"{CacheDirectory.__module__}.shutil.rmtree", killed)
        with taken(tmp_path) as directory, pytest.raises(KeyboardInterrupt):
            directory.prepare(OTHER, None)
    assert names(tmp_path) == {"inductor"}
    with taken(tmp_path) as directory:
        assert not directory.prepare(KEY, digest)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"x" * 5000])
def test_a_marker_that_says_nothing_is_no_leave_to_remove(tmp_path: Path, content: bytes) -> None:
    left(tmp_path, KEY)
    (tmp_path / ".modelcache-run.json").write_bytes(content)
    with taken(tmp_path) as directory, pytest.raises(Taken):
        directory.prepare(KEY, DIGEST)
    assert names(tmp_path) == {"inductor"}


def test_a_start_that_wants_no_seed_begins_with_nothing(tmp_path: Path) -> None:
    left(tmp_path, KEY, DIGEST)
    with taken(tmp_path) as directory:
        assert not directory.prepare(KEY, None, keep=False)
    assert names(tmp_path) == set()


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "cache"
    outside.mkdir()
    (outside / "file").write_text("x")
    left(folder, KEY)
    (folder / "link").symlink_to(outside)
    with taken(folder) as directory:
        directory.prepare(OTHER, None)
    assert names(folder) == set()
    assert (outside / "file").exists()
