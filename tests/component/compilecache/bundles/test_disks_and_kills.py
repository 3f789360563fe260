"""Bundles where the disk fills up, where there are two file systems, and where processes die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.packing import pack
from modelcache.compilecache.bundles.signing import SigningKey, envelope_bytes
from modelcache.compilecache.bundles.unpacking import check, unpack
from modelcache.compilecache.trees.scanning import scan
from modelcache.errors import InsufficientDisk
from modelcache.store.durable import Durable
from tests.support.archives import everything_below, grow, packed
from tests.support.mounts import tmpfs

KIB = 1024
FILES = {f"d{number % 7}/e/{number}": os.urandom(40 * KIB) for number in range(50)}


@pytest.mark.root
@pytest.mark.parametrize("size", [64 * KIB, 600 * KIB, 1900 * KIB])
def test_a_disk_that_fills_up_keeps_nothing_of_it(tmp_path: Path, size: int) -> None:
    said = packed(tmp_path / "root", FILES, tmp_path / "archive")
    with tmpfs(tmp_path / "small", size) as small:
        with pytest.raises(InsufficientDisk):
            unpack(tmp_path / "archive", said, small / "into")
        assert os.listdir(small) == []
        with pytest.raises(InsufficientDisk):
            pack(tmp_path / "root", scan(tmp_path / "root"), small / "archive")
        assert os.listdir(small) == []
        with pytest.raises(InsufficientDisk):
            LocalBundle.write(
                small / "bundle",
                SigningKey.generate().sign(said),
                tmp_path / "archive",
                Durable(small),
            )
        assert os.listdir(small) == []


@pytest.mark.root
def test_without_an_inode_left_nothing_is_kept(tmp_path: Path) -> None:
    said = packed(tmp_path / "root", FILES, tmp_path / "archive")
    with tmpfs(tmp_path / "small", 64 * 1024 * KIB, inodes=30) as small:
        with pytest.raises(InsufficientDisk):
            unpack(tmp_path / "archive", said, small / "into")
        assert os.listdir(small) == []


@pytest.mark.root
def test_an_archive_of_another_file_system_is_copied(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "other", 8 * 1024 * KIB) as other:
        said = packed(tmp_path / "root", FILES, other / "archive")
        (tmp_path / "scratch").mkdir()
        envelope = SigningKey.generate().sign(said)
        there = LocalBundle.write(
            tmp_path / "bundle", envelope, other / "archive", Durable(tmp_path / "scratch")
        )
        check(there.archive, there.statement)


@pytest.mark.root
def test_a_user_without_rights_unpacks_for_itself(tmp_path: Path) -> None:
    said = packed(tmp_path / "root", FILES, tmp_path / "archive")
    assert said
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o711)
    process = os.fork()
    if process == 0:  # pragma: no cover - another process
        code = 1
        try:
            os.setgid(12345)
            os.setuid(12345)
            unpack(tmp_path / "archive", said, tmp_path / "into")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(process, 0)[1] == 0
    assert {path.stat().st_uid for path in (tmp_path / "into").rglob("*")} == {12345}
    assert everything_below(tmp_path / "into") == everything_below(tmp_path / "root")


_KILLED = """
import os, signal, sys
from pathlib import Path
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.statement import parse_envelope
from modelcache.store.durable import Durable

top, left = Path(sys.argv[1]), int(sys.argv[2])

def counted(call):
    def wrapped(*arguments, **named):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return call(*arguments, **named)
    return wrapped

for name in ("mkdir", "link", "open", "fsync", "rename", "write"):
    setattr(os, name, counted(getattr(os, name)))
envelope = parse_envelope((top / "envelope").read_bytes())
LocalBundle.write(top / "bundles" / "b", envelope, top / "archive", Durable(top / "scratch"))
"""


def test_a_bundle_is_whole_or_not_there_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    said = packed(grow(tmp_path / "root", {}), {"a/b": b"content"}, tmp_path / "archive")
    (tmp_path / "envelope").write_bytes(envelope_bytes(SigningKey.generate().sign(said)))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "bundles").mkdir()
    killed = 0
    for step in range(100):
        ended = subprocess.run([sys.executable, "-c", _KILLED, tmp_path, str(step)], check=False)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
        killed += 1
        if os.listdir(tmp_path / "bundles"):
            there = LocalBundle.open(tmp_path / "bundles/b")
            check(there.archive, there.statement)
    assert killed > 8
    assert LocalBundle.open(tmp_path / "bundles/b").digest == said.digest
    check(tmp_path / "archive", said)
