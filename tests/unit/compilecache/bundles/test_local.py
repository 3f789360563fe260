from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from modelcache.compilecache.bundles.local import ARCHIVE_NAMES, ENVELOPE_NAME, LocalBundle
from modelcache.compilecache.bundles.packing import Compression
from modelcache.compilecache.bundles.signing import SigningKey, envelope_bytes, unsigned
from modelcache.compilecache.bundles.statement import MAX_ENVELOPE_BYTES, Statement
from modelcache.compilecache.bundles.unpacking import check
from modelcache.errors import BrokenBundle, NotFound
from modelcache.store.durable import Durable
from tests.support.archives import packed

FILES = {"a/b": b"content"}
KEY = SigningKey.generate()


@pytest.fixture
def durable(tmp_path: Path) -> Durable:
    (tmp_path / "scratch").mkdir()
    return Durable(tmp_path / "scratch")


@pytest.fixture
def said(tmp_path: Path, archive: Path) -> Statement:
    return packed(tmp_path / "root", FILES, archive)


def test_a_bundle_is_written_and_read(
    tmp_path: Path, archive: Path, said: Statement, durable: Durable
) -> None:
    envelope = KEY.sign(said)
    there = LocalBundle.write(tmp_path / "bundle", envelope, archive, durable)
    found = LocalBundle.open(tmp_path / "bundle")
    assert found == there
    assert (found.statement, found.digest, found.envelope) == (said, said.digest, envelope)
    assert found.envelope_bytes == envelope_bytes(envelope)
    assert check(found.archive, found.statement).files[0].path == "a/b"
    assert sorted(os.listdir(tmp_path / "bundle")) == ["archive.tar.zst", "bundle.json"]
    for path, mode in ((tmp_path / "bundle", 0o755), (found.archive, 0o444)):
        assert path.stat().st_mode & 0o7777 == mode
    assert os.listdir(tmp_path / "scratch") == []


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_the_archives_name_says_how_it_is_compressed(
    tmp_path: Path, archive: Path, durable: Durable, compression: Compression
) -> None:
    said = packed(tmp_path / "root", FILES, archive, compression=compression)
    there = LocalBundle.write(tmp_path / "bundle", unsigned(said), archive, durable)
    assert there.archive.name == ARCHIVE_NAMES[compression]


def test_the_first_stays(tmp_path: Path, archive: Path, said: Statement, durable: Durable) -> None:
    first = LocalBundle.write(tmp_path / "bundle", unsigned(said), archive, durable)
    again = LocalBundle.write(tmp_path / "bundle", KEY.sign(said), archive, durable)
    assert again.envelope_bytes == first.envelope_bytes
    other = said.model_copy(update={"name": "other"})
    with pytest.raises(BrokenBundle, match=f"has another bundle already, {said.digest}"):
        LocalBundle.write(tmp_path / "bundle", unsigned(other), archive, durable)
    assert LocalBundle.open(tmp_path / "bundle").digest == said.digest
    assert os.listdir(tmp_path / "scratch") == []


def test_an_archive_of_another_size_is_not_written(
    tmp_path: Path, archive: Path, said: Statement, durable: Durable
) -> None:
    archive.write_bytes(b"short")
    with pytest.raises(BrokenBundle, match="has 5 bytes, and its statement says"):
        LocalBundle.write(tmp_path / "bundle", unsigned(said), archive, durable)
    assert not (tmp_path / "bundle").exists()
    assert os.listdir(tmp_path / "scratch") == []


def test_across_file_systems_it_is_copied(
    tmp_path: Path,
    archive: Path,
    said: Statement,
    durable: Durable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cannot(*_args: object, **_kwargs: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", cannot)
    there = LocalBundle.write(tmp_path / "bundle", unsigned(said), archive, durable)
    assert there.archive.read_bytes() == archive.read_bytes()
    assert there.archive.stat().st_ino != archive.stat().st_ino
    assert there.archive.stat().st_mode & 0o7777 == 0o444


def test_a_blob_that_is_linked_stays_what_nobody_writes_to(
    tmp_path: Path, archive: Path, said: Statement, durable: Durable
) -> None:
    archive.chmod(0o444)
    there = LocalBundle.write(tmp_path / "bundle", unsigned(said), archive, durable)
    assert there.archive.samefile(archive)
    assert archive.stat().st_mode & 0o7777 == 0o444


def test_what_is_not_there(
    tmp_path: Path, archive: Path, said: Statement, durable: Durable
) -> None:
    with pytest.raises(NotFound, match=r"there is no bundle\.json"):
        LocalBundle.open(tmp_path / "nowhere")
    with pytest.raises(NotFound):
        LocalBundle.open(tmp_path)
    there = LocalBundle.write(tmp_path / "bundle", unsigned(said), archive, durable)
    there.archive.unlink()
    with pytest.raises(NotFound, match=r"there is no archive\.tar\.zst"):
        LocalBundle.open(tmp_path / "bundle")


def test_what_is_no_bundle(
    tmp_path: Path, archive: Path, said: Statement, durable: Durable
) -> None:
    there = LocalBundle.write(tmp_path / "bundle", unsigned(said), archive, durable)
    envelope = there.directory / ENVELOPE_NAME
    for content in (b"", b"{}", b"[" * 10_000, b" " * (MAX_ENVELOPE_BYTES + 1), b"\xff"):
        envelope.write_bytes(content)
        with pytest.raises(BrokenBundle):
            LocalBundle.open(there.directory)
    envelope.write_text(json.dumps({**there.envelope.to_document(), "statement": "eA=="}))
    with pytest.raises(BrokenBundle, match="a statement can't be read"):
        LocalBundle.open(there.directory)


def test_links_and_fifos_are_not_read(
    tmp_path: Path, archive: Path, said: Statement, durable: Durable
) -> None:
    there = LocalBundle.write(tmp_path / "bundle", unsigned(said), archive, durable)
    for path in (there.archive, there.directory / ENVELOPE_NAME):
        path.rename(tmp_path / "real")
        path.symlink_to(tmp_path / "real")
        with pytest.raises(BrokenBundle, match="not a regular file"):
            LocalBundle.open(there.directory)
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(BrokenBundle, match="not a regular file"):
            LocalBundle.open(there.directory)
        path.unlink()
        (tmp_path / "real").rename(path)
    (tmp_path / "link").symlink_to(there.directory)
    assert LocalBundle.open(tmp_path / "link").digest == said.digest
