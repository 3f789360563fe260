"""The note of what was seeded, and what has changed since."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.starts.seeding import seed
from modelcache.compilecache.starts.seednotes import (
    NOTE_NAME,
    SeedNote,
    changes,
    read_note,
    write_note,
    written,
)
from modelcache.compilecache.trees.scanning import Entry, scan
from modelcache.errors import UsageError
from tests.support.seeds import bundle_of

FILES = {"a/one": b"1", "a/two": b"22", "b/three": b"333"}


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    bundle: LocalBundle = bundle_of(tmp_path / "made", FILES)
    seed(bundle, tmp_path / "cache")
    return tmp_path / "cache"


def note_of(cache_dir: Path) -> SeedNote:
    note = read_note(cache_dir)
    assert note is not None
    return note


def names(entries: tuple[Entry, ...]) -> list[str]:
    return [entry.path for entry in entries]


def test_of_a_seed_that_nobody_wrote_to_nothing_is_new(cache_dir: Path) -> None:
    tree = scan(cache_dir, FILES.__contains__)
    found = changes(note_of(cache_dir), tree)
    assert (found.new, found.changed, found.damaged, found.gone) == ((), (), (), 0)
    assert written(cache_dir, note_of(cache_dir), tree) == ()


def test_what_is_new_changed_damaged_or_gone(cache_dir: Path) -> None:
    note = note_of(cache_dir)
    (cache_dir / "b" / "new").write_bytes(b"new")
    (cache_dir / "a" / "one").write_bytes(b"2")
    stamp = (cache_dir / "a" / "two").stat().st_mtime_ns
    (cache_dir / "a" / "two").write_bytes(b"")
    os.utime(cache_dir / "a" / "two", ns=(0, stamp))
    (cache_dir / "b" / "three").unlink()
    os.utime(cache_dir / "a" / "one", ns=(0, stamp + 10**9))
    tree = scan(cache_dir, lambda path: not path.startswith("."))
    found = changes(note, tree)
    assert names(found.new) == ["b/new"]
    assert names(found.changed) == ["a/one"]
    assert names(found.damaged) == ["a/two"]
    assert found.gone == 1


def test_a_file_that_was_written_again_with_what_it_had_is_not_written(cache_dir: Path) -> None:
    for path in ("a/one", "a/two"):
        status = (cache_dir / path).stat()
        os.utime(cache_dir / path, ns=(0, status.st_mtime_ns + 2 * 10**9))
    tree = scan(cache_dir, FILES.__contains__)
    assert len(changes(note_of(cache_dir), tree).changed) == 2
    assert written(cache_dir, note_of(cache_dir), tree) == ()
    (cache_dir / "a" / "one").write_bytes(b"2")
    (cache_dir / "a" / "two").write_bytes(b"longer")
    os.utime(cache_dir / "a" / "one", ns=(0, 10**9))
    tree = scan(cache_dir, FILES.__contains__)
    assert names(written(cache_dir, note_of(cache_dir), tree)) == ["a/one", "a/two"]


@pytest.mark.parametrize("grain", [1, 100, 1000, 10**6, 10**9])
def test_times_that_a_file_system_cuts_off_are_the_same(cache_dir: Path, grain: int) -> None:
    note = note_of(cache_dir)
    for file in note.manifest.files:
        os.utime(cache_dir / file.path, ns=(0, file.mtime - file.mtime % grain))
    assert changes(note, scan(cache_dir, FILES.__contains__)).changed == ()
    os.utime(cache_dir / "a" / "one", ns=(0, note.manifest.files[0].mtime + 1))
    assert names(changes(note, scan(cache_dir, FILES.__contains__)).changed) == ["a/one"]


def test_without_a_note_all_is_new(cache_dir: Path) -> None:
    tree = scan(cache_dir, FILES.__contains__)
    assert names(changes(None, tree).new) == sorted(FILES)
    assert names(written(cache_dir, None, tree)) == sorted(FILES)


def test_no_note_is_none_and_a_broken_one_is_told(cache_dir: Path) -> None:
    place = cache_dir / NOTE_NAME
    for broken in (b"", b"{}", b"[" * 100_000, b"\xff", place.read_bytes()[:-1]):
        place.write_bytes(broken)
        with pytest.raises(UsageError, match="can't be read"):
            read_note(cache_dir)
    place.unlink()
    assert read_note(cache_dir) is None
    os.mkfifo(place)
    with pytest.raises(UsageError):
        read_note(cache_dir)
    place.unlink()
    place.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        read_note(cache_dir)


def test_a_note_is_written_anew_after_a_capture(cache_dir: Path) -> None:
    digest = "sha256:" + "7" * 64
    manifest = note_of(cache_dir).manifest
    write_note(cache_dir, digest, manifest)
    assert note_of(cache_dir).digest == digest
    assert note_of(cache_dir).manifest == manifest
    assert (cache_dir / NOTE_NAME).stat().st_mode & 0o7777 == 0o644
