from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.compilecache.bundles.members import PREFIXES
from modelcache.compilecache.bundles.packing import Compression, pack
from modelcache.compilecache.bundles.unpacking import check, unpack
from modelcache.compilecache.trees.copying import Owner
from modelcache.compilecache.trees.naming import path_trouble
from modelcache.compilecache.trees.scanning import Limits, scan
from modelcache.errors import BrokenBundle, Cancelled, TreeChanged
from modelcache.transfer.cancelling import Cancel
from tests.support.archives import everything_below, grow, packed, statement

FILES = {
    "vllm/torch_compile_cache/0123456789/rank_0_0/backbone/artifact_shape_None_subgraph_0": b"a",
    "vllm/torch_compile_cache/0123456789/rank_0_0/backbone/computation_graph.py": b"b" * 1000,
    "vllm/modelinfos/a.json": b"{}",
    "triton/ABC/kernel.cubin": bytes(range(256)) * 10,
    "triton/ABC.d/kernel.json": b"",
    f"inductor/{'long' * 40}/{'name' * 40}/é": b"c",
}
NAMES = st.text(min_size=1, max_size=30).filter(lambda name: path_trouble(name) is None)
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)


def without_collisions(files: dict[str, bytes]) -> dict[str, bytes]:
    """As a disk has it: no file is also a directory."""
    folders = {path[:at] for path in files for at, c in enumerate(path) if c == "/"}
    return {
        path: content
        for path, content in files.items()
        if path not in folders and not path.startswith(".modelcache")
    }


@pytest.mark.parametrize("compression", get_args(Compression))
def test_what_was_packed_comes_out(
    tmp_path: Path, archive: Path, into: Path, compression: Compression
) -> None:
    root = grow(tmp_path / "root", FILES)
    (root / "triton/ABC/kernel.cubin").chmod(0o775)
    os.utime(root / "triton/ABC/kernel.cubin", ns=(1, 1_700_000_000_123_456_789))
    made = pack(root, scan(root), archive, compression=compression)
    manifest = unpack(archive, statement(made.archive), into)
    assert manifest == made.manifest == check(archive, statement(made.archive))
    found = everything_below(into)
    assert {path: content for path, (content, _, _) in found.items()} == FILES
    assert found["triton/ABC/kernel.cubin"][1:] == (0o755, 1_700_000_000_123_456_789)
    assert {mode for _, mode, _ in found.values()} == {0o644, 0o755}
    assert {Path(folder).stat().st_mode & 0o7777 for folder, _, _ in os.walk(into)} == {0o755}


@given(st.dictionaries(PATHS, st.binary(max_size=2000), max_size=12).map(without_collisions))
def test_whatever_a_disk_has_comes_out_again(files: dict[str, bytes]) -> None:
    with TemporaryDirectory() as folder:
        top = Path(folder)
        said = packed(top / "root", files, top / "archive")
        manifest = unpack(top / "archive", said, top / "into")
        assert everything_below(top / "into") == everything_below(top / "root")
        assert {file.path for file in manifest.files} == set(files)


@pytest.mark.parametrize("compression", get_args(Compression))
def test_the_same_files_make_the_same_archive(tmp_path: Path, compression: Compression) -> None:
    one = grow(tmp_path / "one", FILES)
    other = grow(tmp_path / "other", dict(reversed(FILES.items())))
    for path in FILES:
        for root in (one, other):
            os.utime(root / path, ns=(5, 5))
    made = pack(one, scan(one), tmp_path / "a", compression=compression)
    again = pack(other, scan(other), tmp_path / "b", compression=compression)
    assert made == again
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    if compression == "gzip":
        assert content[3:8] == bytes(5)  # no name, and no time


def test_an_empty_tree_is_an_empty_bundle(tmp_path: Path, archive: Path, into: Path) -> None:
    unpack(archive, packed(tmp_path / "root", {}, archive), into)
    assert list(into.iterdir()) == []


@pytest.mark.parametrize(
    ("paths", "layout"),
    [
        (["vllm/torch_compile_cache/a/b", "triton/c"], "vllm"),
        (["vllm/torch_aot_compile/a/rank_0_0/model"], "vllm"),
        (["vllm/torch_compile_cache/a/b", "torch_compile_cache/c"], "plain"),
        (["vllm/modelinfos/a"], "plain"),
        (["triton/a/b"], "triton"),
        (["triton/a/b", "inductor/c"], "plain"),
    ],
)
def test_files_lie_where_mcv_has_them(
    tmp_path: Path, archive: Path, paths: list[str], layout: str
) -> None:
    root = grow(tmp_path / "root", dict.fromkeys(paths, b"x"))
    made = pack(root, scan(root), archive)
    assert made.manifest.layout == layout
    assert set(PREFIXES) == {"plain", "vllm", "triton"}


def test_a_file_that_changes_between_the_readings_is_noticed(tmp_path: Path, archive: Path) -> None:
    root = grow(tmp_path / "root", {"a": b"x" * 100})
    tree = scan(root)
    status = (root / "a").stat()
    (root / "a").write_bytes(b"y" * 100)
    os.utime(root / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(TreeChanged, match="a changed while"):
        pack(root, tree, archive)
    assert not archive.exists()


def test_a_file_that_changes_without_a_trace_between_the_readings_is_noticed(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one on a network file system, whose clock is coarse."""
    root = grow(tmp_path / "root", {"a": b"x" * 100})
    tree, read, readings = scan(root), os.read, iter("12")

    def changing(fd: int, size: int) -> bytes:
        return read(fd, size).replace(b"x", next(readings).encode())

    monkeypatch.setattr(os, "read", changing)
    with pytest.raises(TreeChanged, match="a changed while it was packed"):
        pack(root, tree, archive)
    assert not archive.exists()


def test_a_directory_that_became_a_link_is_not_followed(tmp_path: Path, archive: Path) -> None:
    root = grow(tmp_path / "root", {"d/secret": b"x"})
    tree = scan(root)
    (root / "d").rename(tmp_path / "elsewhere")
    (root / "d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TreeChanged):
        pack(root, tree, archive)
    assert not archive.exists()


def test_an_archive_that_is_there_is_left_alone(tmp_path: Path, archive: Path) -> None:
    archive.write_text("mine")
    with pytest.raises(FileExistsError):
        packed(tmp_path / "root", FILES, archive)
    assert archive.read_text() == "mine"


def test_names_that_none_may_have_are_not_packed(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(BrokenBundle, match="kept for this program"):
        packed(tmp_path / "root", {".modelcache-seed.json": b"{}"}, archive)
    root = grow(tmp_path / "more", {"a": b"1", "b": b"2", "c/d/e": b"3"})
    with pytest.raises(BrokenBundle, match="3 files with 3 bytes are more than"):
        pack(root, scan(root), archive, limits=Limits(files=2))
    with pytest.raises(BrokenBundle, match="more than 1 directories deep"):
        pack(root, scan(root), archive, limits=Limits(depth=1))
    (root / "zeros").write_bytes(bytes(80 * 1024 * 1024))
    with pytest.raises(BrokenBundle, match="refused as a bomb"):
        pack(root, scan(root), archive)
    assert not archive.exists()


def test_both_ways_stop_when_they_are_cancelled(tmp_path: Path, archive: Path, into: Path) -> None:
    said = packed(tmp_path / "root", FILES, archive)
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        pack(tmp_path / "root", scan(tmp_path / "root"), tmp_path / "again", cancel=cancel)
    with pytest.raises(Cancelled):
        unpack(archive, said, into, cancel=cancel)
    assert not (tmp_path / "again").exists()
    assert not into.exists()


def test_memory_is_bounded(tmp_path: Path, archive: Path, into: Path) -> None:
    size = 64 * 1024 * 1024
    block = os.urandom(1024 * 1024)
    root = grow(tmp_path / "root", {"large": block * (size // len(block))})
    tracemalloc.start()
    try:
        said = statement(pack(root, scan(root), archive).archive)
        unpack(archive, said, into)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024 * 1024


@pytest.mark.root
def test_all_of_it_belongs_to_its_owner(tmp_path: Path, archive: Path, into: Path) -> None:
    said = packed(tmp_path / "root", FILES, archive)
    unpack(archive, said, into, owner=Owner(12345, 54321))
    found = [into, *into.rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in found} == {(12345, 54321)}
