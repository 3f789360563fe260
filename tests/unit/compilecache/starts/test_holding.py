"""The bundles of a node: put, shown, removed, and what a crash or a reader in between does."""

from __future__ import annotations

import fcntl
import os
from hashlib import sha256

import pytest

from modelcache.compilecache.starts import using
from modelcache.compilecache.starts.holding import Held, Holding
from modelcache.compilecache.starts.using import InUse, in_use
from modelcache.errors import NotFound, UnsafePath
from modelcache.store import Store
from modelcache.store.durable import Durable

KEY = "a" * 64
OTHER = "b" * 64
DIGEST = "1" * 64
NEWER = "2" * 64


def put(
    holding: Holding, name: str = "llama", key: str = KEY, digest: str = DIGEST, content: str = "x"
) -> Held:
    with holding.staging() as made:
        (made / "bundle.json").write_text("{}")
        (made / "archive.tar.zst").write_text(content)
        return holding.add(made, name, key, digest)


def test_a_bundle_appears_whole_readable_and_unwritable(holding: Holding) -> None:
    held = put(holding, content="archive")
    assert holding.all() == (held,)
    assert held.directory.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in held.directory.iterdir()} == {0o444}
    assert held.archive.read_text() == "archive"
    assert held.bytes == 7
    assert os.listdir(holding.layout.staging) == []
    assert os.listdir(holding.layout.scratch) == []


def test_nothing_is_shown_before_it_is_told_to(holding: Holding) -> None:
    held = put(holding)
    assert holding.current("llama") is None
    holding.show("llama", KEY, f"sha256:{DIGEST}")
    assert holding.current("llama") == held
    assert os.readlink(holding.layout.compile_current("llama")) == f"{KEY}/{DIGEST}"
    holding.hide("llama")
    assert holding.current("llama") is None


def test_what_is_not_here_is_not_shown(holding: Holding) -> None:
    held = put(holding)
    holding.show("llama", KEY, DIGEST)
    with pytest.raises(NotFound, match="no bundle 222222222222"):
        holding.show("llama", KEY, NEWER)
    assert holding.current("llama") == held


def test_the_first_of_two_equal_bundles_stays(holding: Holding) -> None:
    first = put(holding, content="first")
    inode = first.archive.stat().st_ino
    assert put(holding, content="second") == first
    assert (first.archive.read_text(), first.archive.stat().st_ino) == ("first", inode)
    assert os.listdir(holding.layout.scratch) == []


def test_generations_of_a_key_lie_beside_each_other_oldest_first(holding: Holding) -> None:
    older, newer, other = put(holding), put(holding, digest=NEWER), put(holding, key=OTHER)
    os.utime(older.directory / "bundle.json", ns=(0, 1))
    os.utime(newer.directory / "bundle.json", ns=(0, 2))
    os.utime(other.directory / "bundle.json", ns=(0, 3))
    assert holding.of("llama") == (older, newer, other)
    assert holding.of("mistral") == ()


@pytest.mark.parametrize("files", [[], ["bundle.json"], ["archive.tar.zst"]])
def test_half_a_bundle_is_not_taken(holding: Holding, files: list[str]) -> None:
    with holding.staging() as made:
        for name in files:
            (made / name).write_text("")
        with pytest.raises(NotFound, match="no bundle"):
            holding.add(made, "llama", KEY, DIGEST)
    assert holding.all() == ()
    assert os.listdir(holding.layout.staging) == []


@pytest.mark.parametrize(
    ("name", "key", "digest"),
    [("../x", KEY, DIGEST), ("llama", "../../etc", DIGEST), ("llama", KEY, "current")],
)
def test_names_that_lead_elsewhere_are_refused(
    holding: Holding, name: str, key: str, digest: str
) -> None:
    for call in (holding.show, holding.remove, holding.find):
        with pytest.raises(UnsafePath):
            call(name, key, digest)


def test_a_link_to_another_place_is_no_bundle(holding: Holding) -> None:
    put(holding)
    outside = put(holding, "mistral", OTHER)
    (holding.layout.compile_cache("llama") / OTHER).symlink_to(outside.directory.parent)
    (holding.layout.compile_cache("llama") / KEY / NEWER).symlink_to(DIGEST)
    assert [held.digest for held in holding.of("llama")] == [DIGEST]
    holding.layout.compile_current("llama").symlink_to("../../..")
    assert holding.current("llama") is None


def test_what_shows_a_bundle_goes_before_it(
    holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = put(holding)
    holding.show("llama", KEY, DIGEST)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Durable, "remove_tree", crash)
    with pytest.raises(KeyboardInterrupt):
        holding.remove("llama", KEY, DIGEST)
    assert holding.current("llama") is None
    assert not holding.layout.compile_current("llama").is_symlink()
    assert holding.all() == (held,)


def test_removing_another_bundle_leaves_what_is_shown(holding: Holding) -> None:
    shown = put(holding)
    put(holding, digest=NEWER)
    holding.show("llama", KEY, DIGEST)
    assert holding.remove("llama", KEY, NEWER) == 1
    assert holding.remove("llama", KEY, NEWER) == 0
    assert holding.current("llama") == shown


def test_a_bundle_that_is_read_is_not_removed_under_its_reader(holding: Holding) -> None:
    held = put(holding)
    holding.show("llama", KEY, DIGEST)
    with in_use(held.directory):
        with pytest.raises(InUse, match="is being seeded"):
            holding.remove("llama", KEY, DIGEST)
        assert held.archive.exists()
        assert holding.current("llama") is None
    holding.remove("llama", KEY, DIGEST)
    assert not held.directory.exists()


def test_a_reader_that_never_ends_does_not_keep_a_bundle_for_good(holding: Holding) -> None:
    held = put(holding)
    with in_use(held.directory):
        holding.remove("llama", KEY, DIGEST, force=True)
    assert not held.directory.exists()


def test_a_reader_comes_too_late_for_a_bundle_that_goes(
    holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = put(holding)
    real = fcntl.flock

    def removed_meanwhile(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        holding.remove("llama", KEY, DIGEST)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with pytest.raises(NotFound, match="a moment ago"), in_use(held.directory):
        pass
    with pytest.raises(NotFound, match="any more"), in_use(held.directory):
        pass


def test_a_lock_that_somebody_keeps_does_not_hold_up_a_start(
    holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = put(holding)
    monkeypatch.setattr(using, "_PATIENCE_SECONDS", 0.01)
    fd = os.open(held.directory / "bundle.json", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with in_use(held.directory):
        pass
    os.close(fd)


def test_an_archive_that_is_a_blob_is_freed_with_its_bundle(store: Store, holding: Holding) -> None:
    content = b"archive"
    digest = sha256(content).hexdigest()
    store.layout.blob(digest).parent.mkdir()
    store.layout.blob(digest).write_bytes(content)
    with holding.staging() as made:
        (made / "bundle.json").write_text("{}")
        store.blobs.link(digest, made / "archive.tar.gz")
        holding.add(made, "llama", KEY, DIGEST)
    store.sweep(older_than=0)
    assert store.blobs.has(digest, len(content))
    assert holding.remove("llama", KEY, DIGEST) > 0
    assert not store.blobs.has(digest, len(content))


def test_a_cache_that_is_forgotten_leaves_nothing(holding: Holding) -> None:
    put(holding)
    put(holding, digest=NEWER)
    holding.show("llama", KEY, NEWER)
    mark = holding.layout.compile_mark("llama", DIGEST)
    mark.parent.mkdir()
    mark.write_text("{}")
    holding.layout.compile_last_start("llama").write_text("{}")
    holding.forget("llama")
    assert os.listdir(holding.layout.compile) == []


def test_a_sweep_takes_what_leads_nowhere_and_nothing_else(holding: Holding) -> None:
    held = put(holding)
    holding.show("llama", KEY, DIGEST)
    put(holding, "mistral")
    holding.show("mistral", KEY, DIGEST)
    (holding.layout.compile_bundle("mistral", KEY, DIGEST) / "bundle.json").unlink()
    (holding.layout.compile_cache("llama") / "marks").mkdir()
    holding.sweep()
    assert holding.current("llama") == held
    assert os.listdir(holding.layout.compile_cache("mistral")) == []
    assert sorted(os.listdir(holding.layout.compile_cache("llama"))) == [KEY, "current", "marks"]


def test_staging_that_a_kill_left_goes_with_the_stores_sweep(
    store: Store, holding: Holding
) -> None:
    with holding.staging() as made:
        (made / "archive.tar.zst").write_text("half")
        store.sweep(older_than=0)
        assert made.exists()
        (holding.layout.staging / "left").mkdir()
        store.sweep(older_than=0)
        assert not (holding.layout.staging / "left").exists()
