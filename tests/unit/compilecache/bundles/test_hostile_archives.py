"""Archives by whoever has the say over all of a bundle: its bytes, its manifest, its statement.

Each is refused with the reason, by `check` as well, and nothing of it stays on the disk.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tarfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from modelcache.compilecache.bundles.manifest import BundleManifest, manifest_bytes
from modelcache.compilecache.bundles.members import BLOCK, END, MANIFEST_MEMBER, header
from modelcache.compilecache.bundles.statement import Statement
from modelcache.compilecache.bundles.unpacking import check, unpack
from modelcache.compilecache.bundles.writing import Writer
from modelcache.compilecache.trees.scanning import Limits
from modelcache.errors import BrokenBundle, NotFound
from tests.support.archives import (
    described,
    everything_below,
    first,
    forged,
    good,
    member,
    packed,
)

ONE = {"a/b": b"content"}
MANIFEST = described(ONE)
NAME = "io.modelcache.cache/a/b"
KIB = 1024
MIB = 1024 * KIB


def refused(archive: Path, said: Statement, limits: Limits | None = None) -> str:
    """Why a bundle is refused. Nothing of it is there afterwards."""
    before = everything_below(archive.parent)
    into = archive.parent / "into"
    with pytest.raises(BrokenBundle) as unpacking:
        unpack(archive, said, into, limits=limits)
    assert not into.exists()
    assert everything_below(archive.parent) == before
    with pytest.raises(BrokenBundle) as checking:
        check(archive, said, limits=limits)
    assert str(checking.value) == str(unpacking.value)
    assert unpacking.value.exit_code == 5
    return str(unpacking.value)


def strange(name: str = NAME, content: bytes = b"content", **attributes: Any) -> bytes:
    """A member as tarfile makes it, with whatever attributes."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(content))
        size = archive.offset
    return buffer.getvalue()[:size]


def test_the_forger_can_do_it_right(archive: Path, into: Path) -> None:
    unpack(archive, forged(archive, good(ONE), MANIFEST), into)
    assert (into / "a/b").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (strange(type=tarfile.SYMTYPE, linkname="/etc", content=b""), "a symbolic link"),
        (strange(type=tarfile.LNKTYPE, linkname="../../etc/passwd", content=b""), "a hard link"),
        (strange(type=tarfile.CHRTYPE, content=b"", devmajor=1, devminor=3), "a device"),
        (strange(type=tarfile.BLKTYPE, content=b"", devmajor=8), "a device"),
        (strange(type=tarfile.FIFOTYPE, content=b""), "a fifo"),
        (strange(type=tarfile.DIRTYPE, content=b""), "a directory"),
        (strange(type=tarfile.GNUTYPE_SPARSE), "a sparse file"),
        (strange(type=b"V"), "of an unknown kind"),
        (strange("/etc/passwd"), "the absolute path /etc/passwd"),
        (strange("io.modelcache.cache/../../etc/passwd"), "leads out of the directory"),
        (strange(mode=0o4755), "setuid"),
        (strange(mode=0o2644), "setuid, setgid"),
        (strange(mode=0o666), "another header"),
        (strange(uid=1000), "belongs to another user"),
        (strange(uname="root"), "belongs to another user"),
        (strange(mtime=5), "another header"),
        (strange(content=b"content and more"), "with 16 bytes instead of 7"),
        (strange("io.modelcache.cache/other"), "other, which the manifest doesn't have"),
        (strange(MANIFEST_MEMBER), "which the manifest doesn't have"),
        (strange(pax_headers={"comment": "x"}), "an extended header"),
        (strange("n" * 200), "an extended header"),
        (b"", "the archive ends where a/b should be: a file of the manifest is missing"),
        (b"\xff" * BLOCK, "no header where a/b should be"),
        (strange()[:100], "no header where a/b should be"),
        (strange("io.modelcache.cache/\x1b[31m"), "cache/\\x1b[31m, which"),
    ],
)
def test_a_member_that_is_not_the_manifests(archive: Path, entry: bytes, why: str) -> None:
    assert why in refused(archive, forged(archive, first(MANIFEST) + entry, MANIFEST))


def test_a_link_before_the_file_that_would_be_written_through_it(archive: Path) -> None:
    elsewhere = archive.parent / "elsewhere"
    elsewhere.mkdir()
    link = strange(
        "io.modelcache.cache/a", type=tarfile.SYMTYPE, linkname=str(elsewhere), content=b""
    )
    tar = first(MANIFEST) + link + member(NAME, b"content")
    assert "a symbolic link" in refused(archive, forged(archive, tar, MANIFEST))
    assert not any(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (member(NAME, b"content"), "a second time, or out of order, after the last file"),
        (member("more", b""), "more, which the manifest doesn't have, after the last file"),
        (b"", None),
    ],
)
def test_more_members_than_the_manifest_has(archive: Path, more: bytes, why: str | None) -> None:
    said = forged(archive, good(ONE) + more, MANIFEST)
    if why:
        assert why in refused(archive, said)
    else:
        check(archive, said)


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_nothing_comes_after_the_end(archive: Path, compression: Any) -> None:
    said = forged(archive, good(ONE), MANIFEST, end=END + b"x", compression=compression)
    assert "hidden after its end" in refused(archive, said)
    said = forged(archive, good(ONE), MANIFEST, end=END[:-1], compression=compression)
    assert "breaks off after the last file" in refused(archive, said)


@pytest.mark.parametrize("compress", [zstandard.compress, gzip.compress])
def test_a_second_archive_behind_the_first(archive: Path, compress: Any) -> None:
    whole = compress(good(ONE) + END) + compress(b"x" * 10)
    kind: Any = "gzip" if compress is gzip.compress else "zstd"
    said = forged(archive, b"", MANIFEST, packed=whole, compression=kind)
    assert "hidden after its end" in refused(archive, said)
    said = forged(
        archive, b"", MANIFEST, packed=compress(good(ONE) + END) + b"garbage", compression=kind
    )
    why = "hidden after its end" if kind == "gzip" else "can't be decompressed"
    assert why in refused(archive, said)


def test_padding_hides_nothing(archive: Path) -> None:
    tar = first(MANIFEST) + member(NAME, b"content")[:-1] + b"!"
    assert "hidden after a/b" in refused(archive, forged(archive, tar, MANIFEST))
    tar = first(MANIFEST)[:-1] + b"!" + member(NAME, b"content")
    assert "hidden after modelcache/manifest.json" in refused(
        archive, forged(archive, tar, MANIFEST)
    )


def test_the_manifest_has_to_be_the_first(archive: Path) -> None:
    swapped = member(NAME, b"content") + first(MANIFEST)
    assert "it is no bundle" in refused(archive, forged(archive, swapped, MANIFEST))
    assert "it is no bundle" in refused(archive, forged(archive, b"", MANIFEST, end=b""))
    huge = header(MANIFEST_MEMBER, 2**33 - 1)
    assert "manifest has more than" in refused(archive, forged(archive, huge, MANIFEST))
    few = header(MANIFEST_MEMBER, 3201)
    said = refused(archive, forged(archive, few, MANIFEST), limits=Limits(files=10))
    assert "manifest has more than 3200 bytes" in said
    # Base 256, as GNU tar writes what is larger; and a sign.
    for field in (b"\x80" + b"\xff" * 11, b"-0000000001\0", b"0x00000001\0\0"):
        odd = bytearray(header(MANIFEST_MEMBER, 1))
        odd[124:136] = field
        assert "it is no bundle" in refused(archive, forged(archive, bytes(odd), MANIFEST))


def test_changed_bytes_of_a_file(archive: Path) -> None:
    tar = first(MANIFEST) + member(NAME, b"CONTENT")
    assert "a/b is another than the manifest says" in refused(
        archive, forged(archive, tar, MANIFEST)
    )


def test_another_manifest_than_the_statement_says(archive: Path) -> None:
    said = forged(archive, good({"a/b": b"CONTENT"}), MANIFEST)
    assert "manifest is another than its statement says" in refused(archive, said)


def test_every_changed_byte_of_an_archive_is_noticed(tmp_path: Path, archive: Path) -> None:
    said = packed(tmp_path / "root", ONE, archive)
    content = archive.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        archive.write_bytes(changed)
        assert "bytes were changed" in refused(archive, said)
    archive.write_bytes(content[:-1])
    assert "and its statement says" in refused(archive, said)


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (["/etc/passwd"], "is no name of a file"),
        (["../x"], "is no name of a file"),
        (["a/../../x"], "is no name of a file"),
        (["a//b"], "is no name of a file"),
        (["a/"], "is no name of a file"),
        (["./a"], "is no name of a file"),
        (["a\0b"], "can't be printed"),
        (["a\nb"], "can't be printed"),
        (["a\u202eb"], "can't be printed"),
        (["a\\b"], "slash or a backslash"),
        (["n" * 256], "longer than 255"),
        (["/".join(["n" * 200] * 20)], "longer than"),
        (["a", "a"], "is there twice"),
        (["b", "a"], "out of order"),
        (["a", "a/b"], "is a file, and also a directory"),
        ([".modelcache-seed.json"], "kept for this program"),
        ([".modelcache-x/y"], "kept for this program"),
        (["/".join("d" * 33) + "/f"], "more than 32 directories deep"),
    ],
)
def test_names_that_none_may_have(archive: Path, paths: list[str], why: str) -> None:
    files = [described({path: b""}).files[0] for path in paths]
    manifest = BundleManifest(files=tuple(files))
    tar = first(manifest) + b"".join(member(f"io.modelcache.cache/{path}", b"") for path in paths)
    assert why in refused(archive, forged(archive, tar, manifest))


def test_two_files_of_one_name_in_the_archive(archive: Path) -> None:
    files = {"torch_compile_cache/a": b"1", "vllm/torch_compile_cache/a": b"1"}
    assert "two files of one name" in refused(
        archive, forged(archive, good(files, "vllm"), described(files, "vllm"))
    )


@pytest.mark.parametrize(
    "change",
    [
        {"mode": 0o4755},
        {"mode": 0o666},
        {"size": -1},
        {"size": 2**53},
        {"mtime": -1},
        {"mtime": 2**63},
        {"sha256": "A" * 64},
        {"size": 7.0},
        {"uid": 0},
    ],
)
def test_what_a_manifest_may_not_say(archive: Path, change: dict[str, Any]) -> None:
    assert "manifest can't be read" in written_otherwise(archive, {**plain()["files"][0], **change})


def plain() -> dict[str, Any]:
    return MANIFEST.to_document()


def written_otherwise(archive: Path, file: dict[str, Any]) -> str:
    return with_manifest(archive, to_json({**plain(), "files": [file]}))


def to_json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def with_manifest(archive: Path, content: bytes) -> str:
    tar = member(MANIFEST_MEMBER, content) + member(NAME, b"content")
    digest = f"sha256:{sha256(content).hexdigest()}"
    return refused(archive, forged(archive, tar, MANIFEST, manifest=digest))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"files":' * 10_000,
        b"\xff\xfe",
        b'{"files":[' + b"9" * 10_000 + b"]}",
        b'{"files":NaN}',
    ],
)
def test_what_is_no_manifest(archive: Path, content: bytes) -> None:
    assert "manifest can't be read" in with_manifest(archive, content)


@pytest.mark.parametrize(
    "content",
    [
        b'{"files":[' + b"1," * MIB + b"1]}",
        b'{"files":[' + b"{}," * MIB + b"{}]}",
        b"{" + b",".join(b'"%x":1' % number for number in range(200_000)) + b"}",
        manifest_bytes(MANIFEST).replace(b'"path":"', b'"path":"' + b"\\u0061" * MIB),
    ],
)
def test_a_manifest_is_no_bomb_either(archive: Path, content: bytes) -> None:
    """JSON that is wrong in a million places takes gibibytes to be refused by who reads any."""
    with memory_below(80 * MIB):
        assert "manifest" in with_manifest(archive, content)


def test_a_manifest_with_more_files_than_were_said_is_not_read(archive: Path) -> None:
    files = dict.fromkeys((f"{number:05}" for number in range(20_000)), b"")
    said = forged(archive, good(files), described(files), files=1)
    with objects_below(10 * MIB):
        assert "has 20000 files, and the statement says 1" in refused(archive, said)


def test_a_manifest_is_written_in_one_way(archive: Path) -> None:
    content = manifest_bytes(MANIFEST)
    twice = b'{"files":[],' + content[1:]
    names = content.replace(b'"a/b"', b'"\\u0061/b"')
    for other in (content + b" ", content.replace(b":", b": "), twice, names):
        assert "canonical form" in with_manifest(archive, other)


def test_members_for_other_programs_are_those_that_are_known(archive: Path) -> None:
    for path in ("io.vllm.manifest/manifest.json", "a/b", "../../x"):
        foreign = described({path: b"{}"}).files
        manifest = MANIFEST.model_copy(update={"foreign": foreign})
        tar = first(manifest) + member(path, b"{}") + member(NAME, b"content")
        assert "for other programs" in refused(archive, forged(archive, tar, manifest))


# Too much


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"files": 2}, "and the statement says 2 with 7"),
        ({"bytes": 8}, "and the statement says 1 with 8"),
        ({"files": 200_001}, "more than 200000 files"),
        ({"bytes": 65 * 1024**3}, "unpacks to more than"),
        ({"size": 17 * 1024**3}, "the archive has more than"),
        ({"bytes": 1024**3}, "refused as a bomb"),
    ],
)
def test_what_a_statement_may_not_say(archive: Path, claims: dict[str, Any], why: str) -> None:
    assert why in refused(archive, forged(archive, good(ONE), MANIFEST, **claims))


def test_limits_are_the_callers(archive: Path) -> None:
    files = {"a/b/c": b"12345", "d": b"67890"}
    said = forged(archive, good(files), described(files))
    check(archive, said, limits=Limits(files=3, bytes=10, depth=2))
    assert "more than 1 files" in refused(archive, said, Limits(files=1))
    assert "more than 9 bytes" in refused(archive, said, Limits(bytes=9))
    assert "1 directories deep" in refused(archive, said, Limits(depth=1))
    many = {f"{'/'.join(str(n) * 8)}/f": b"" for n in range(5)}
    said = forged(archive, good(many), described(many))
    assert "more than 10 directories" in refused(archive, said, Limits(files=10))


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_a_bomb_is_not_unpacked_further_than_the_manifest_says(
    archive: Path, compression: Any
) -> None:
    """A file that goes on for a gibibyte where seven bytes were said: none of it is read."""
    zeros = good(ONE)[: -BLOCK * 2] + member(NAME, b"content")[:BLOCK] + bytes(256 * MIB)
    said = forged(archive, zeros, MANIFEST, compression=compression)
    with memory_below(64 * MIB):
        assert "a/b" in refused(archive, said)


@contextmanager
def memory_below(most: int) -> Iterator[None]:
    """So many bytes more at most, at any moment (proc(5): clear_refs, VmHWM)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    yield
    assert _peak() - before < most


@contextmanager
def objects_below(most: int) -> Iterator[None]:
    """Python's own objects alone: in a process of gigabytes a few mebibytes more tell nothing."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    (found,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(found) * KIB


def test_a_name_in_a_gzip_header_takes_no_time(archive: Path) -> None:
    """GzipFile reads it byte by byte: 64 MiB would take half a minute."""
    header = b"\x1f\x8b\x08\x08" + bytes(6)
    said = forged(archive, b"", MANIFEST, packed=header + b"n" * (64 * MIB), compression="gzip")
    started = time.process_time()
    assert "it is no bundle" in refused(archive, said)
    assert time.process_time() - started < 5


def test_a_bomb_in_the_window(archive: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=27, enable_ldm=True, write_content_size=False
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed_so = compressor.compress(good(ONE) + END) + compressor.flush()
    assert zstandard.get_frame_parameters(packed_so).window_size == 2**27
    said = forged(archive, b"", MANIFEST, packed=packed_so)
    assert "can't be decompressed" in refused(archive, said)


def test_bytes_and_files_are_written_within_a_small_disk(archive: Path) -> None:
    """What the manifest owns up to is bounded by the limits, before anything is written."""
    files = {"zeros": bytes(80 * MIB)}
    said = forged(archive, good(files), described(files))
    assert said.archive.size < 100 * KIB
    assert "refused as a bomb" in refused(archive, said)


# Other files


def test_an_archive_that_is_no_file(archive: Path, tmp_path: Path) -> None:
    said = packed(tmp_path / "root", ONE, archive)
    archive.rename(tmp_path / "real")
    into = tmp_path / "into"
    with pytest.raises(NotFound):
        unpack(archive, said, into)
    archive.symlink_to(tmp_path / "real")
    with pytest.raises(BrokenBundle, match="not a regular file"):
        unpack(archive, said, into)
    archive.unlink()
    os.mkfifo(archive)
    with pytest.raises(BrokenBundle, match="not a regular file"):
        unpack(archive, said, into)
    archive.unlink()
    archive.mkdir()
    with pytest.raises(BrokenBundle, match="not a regular file"):
        unpack(archive, said, into)
    assert not into.exists()


def test_what_is_there_is_left_alone(archive: Path, tmp_path: Path, into: Path) -> None:
    said = packed(tmp_path / "root", ONE, archive)
    into.mkdir()
    (into / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        unpack(archive, said, into)
    assert everything_below(into).keys() == {"mine"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere)
    with pytest.raises(FileExistsError):
        unpack(archive, said, tmp_path / "link")
    assert not any(elsewhere.iterdir())


@given(st.data())
def test_no_archive_of_noise_does_anything_else(data: st.DataObject) -> None:
    """Whatever bytes there are: it comes out as the manifest has it, or it is refused."""
    tar = bytearray(good({"a/b": b"content", "c": b"", "d/e": b"x" * 600}) + END)
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, len(tar)))
        length = data.draw(st.integers(0, 700))
        tar[start : start + length] = data.draw(st.binary(max_size=700))
    with TemporaryDirectory() as folder:
        archive = Path(folder, "archive")
        manifest = described({"a/b": b"content", "c": b"", "d/e": b"x" * 600})
        said = forged(archive, bytes(tar), manifest, end=b"")
        try:
            unpack(archive, said, Path(folder, "into"))
        except BrokenBundle:
            assert os.listdir(folder) == ["archive"]
        else:
            found = everything_below(Path(folder, "into"))
            assert {path: content for path, (content, _, _) in found.items()} == {
                "a/b": b"content",
                "c": b"",
                "d/e": b"x" * 600,
            }


def test_until_it_is_whole_nobody_else_may_look_in(archive: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    (file,) = MANIFEST.files
    with Writer(into, None) as writer, writer.file(file) as write:
        write(b"content")
        assert into.stat().st_mode & 0o7777 == 0o700
    assert into.stat().st_mode & 0o7777 == 0o755
