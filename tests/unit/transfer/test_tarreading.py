"""Archives as strangers make them."""

from __future__ import annotations

import io
import random
import tarfile
import tracemalloc
import zlib
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from modelcache.errors import BrokenArchive, ModelCacheError, UnsafePath
from modelcache.origins.protocol import Compression
from modelcache.transfer import tarreading
from modelcache.transfer.tarreading import Member, TarReader
from tests.support.tars import entry, folder, hard, link, packed, tar

MIB = 1024 * 1024
GOOD = [
    folder("models"),
    entry("models/a", b"a" * 700),
    entry("models/empty"),
    link("models/l", "a"),
    hard("models/h", "models/a"),
    entry("models/" + "n" * 200 + "/" + "é" * 100, b"long"),
    entry("models/dev", type=tarfile.CHRTYPE),
]


class Trickle:
    """A stream that gives what it likes, as decompressors may."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)
        self._chance = random.Random(7)

    def read(self, size: int = -1, /) -> bytes:
        return self._content.read(min(size, self._chance.randrange(1, 3000)))


def read(
    content: bytes, compression: Compression = "none", most: int = 64 * MIB
) -> list[tuple[str, str, bytes]]:
    """Kind, path, and content or target of each entry."""
    members = TarReader(Trickle(content), compression, most=most).members()
    return [(member.kind, member.path, content_of(member)) for member in members]


def content_of(member: Member) -> bytes:
    if member.kind != "file":
        return member.target.encode()
    buffer = bytearray(member.size)
    member.read_into(memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_entry_comes_in_order(compression: Compression, form: int) -> None:
    assert read(packed(tar(*GOOD, format=form), compression), compression) == [
        ("folder", "models", b""),
        ("file", "models/a", b"a" * 700),
        ("file", "models/empty", b""),
        ("link", "models/l", b"a"),
        ("hard", "models/h", b"models/a"),
        ("file", "models/" + "n" * 200 + "/" + "é" * 100, b"long"),
        ("other", "models/dev", b""),
    ]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_content_may_be_passed_over(compression: Compression) -> None:
    entries = [entry(f"f{n}", bytes([n]) * 5000) for n in range(20)]
    reader = TarReader(Trickle(packed(tar(*entries), compression)), compression, most=64 * MIB)
    seen = {}
    for number, member in enumerate(reader.members()):
        if number % 3 == 0:
            seen[member.path] = content_of(member)
        elif number % 3 == 1:
            member.read_into(memoryview(bytearray(100)))
    assert seen == {f"f{n}": bytes([n]) * 5000 for n in range(0, 20, 3)}


def test_several_streams_one_after_the_other_are_one() -> None:
    """As pigz and estargz write them."""
    content = tar(*GOOD)
    for compression in ("gzip", "zstd"):
        parts = packed(content[:1000], compression) + packed(content[1000:], compression)
        assert len(read(parts, compression)) == len(GOOD)


def test_names_are_made_plain() -> None:
    names = ["./a", "b//c", "d/./e", "./", "f/", "/g", "//h/i"]
    plain = ["a", "b/c", "d/e", "", "f", "g", "h/i"]
    assert [path for _, path, _ in read(tar(*map(entry, names)))] == plain


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("../x", "x"),
        ("models/../../x", "x"),
        ("models/a/../x", "models/x"),
        ("models/..", ""),
        ("models/a/../.wh.x", "models/x"),
        (".wh...", ".wh..."),
        ("models/.wh.", "models/.wh."),
    ],
)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_that_lead_elsewhere_are_no_content(name: str, place: str, form: int) -> None:
    archive = tar(entry("good"), entry(name, b"evil"), entry("after"), format=form)
    assert read(archive) == [("file", "good", b""), ("unsafe", place, b""), ("file", "after", b"")]


@pytest.mark.parametrize(
    ("name", "said"),
    [("x/" * 2100, "more than 4096 bytes"), ("x/" * 513, "more than 512 deep")],
)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_are_limited(name: str, said: str, form: int) -> None:
    with pytest.raises(UnsafePath, match=said):
        read(tar(entry("good"), entry(name, b"evil"), format=form))


def test_whiteouts() -> None:
    names = [".wh.a", "b/.wh.c", "b/.wh..wh..opq", ".wh..wh..opq", ".wh..wh.plnk", "b/.whc"]
    assert [found[:2] for found in read(tar(*map(entry, names)))] == [
        ("gone", "a"),
        ("gone", "b/c"),
        ("opaque", "b"),
        ("opaque", ""),
        ("other", ".wh..wh.plnk"),
        ("file", "b/.whc"),
    ]


# What breaks off, or is none


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_an_archive_that_breaks_off_is_no_short_archive(
    compression: Compression, share: float
) -> None:
    content = (random.Random(n).randbytes(3000) for n in range(20))
    whole = packed(tar(*(entry(f"f{n}", data) for n, data in enumerate(content))), compression)
    with pytest.raises(BrokenArchive):
        read(whole[: int(len(whole) * share)], compression)


def test_blocks_of_zeros_at_the_end_may_be_missing() -> None:
    """As some builders leave them out, and runtimes accept."""
    whole = tar(entry("a", b"1"), entry("b", b"2"))
    assert [path for _, path, _ in read(whole[:2048])] == ["a", "b"]
    for size in (2047, 1536, 1025):
        with pytest.raises(BrokenArchive):
            read(whole[:size])


@pytest.mark.timeout(20)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_an_entry_that_says_it_is_huge_ends_with_the_archive(
    compression: Compression, form: int
) -> None:
    huge, _ = entry("huge")
    huge.size = 2**60
    content = huge.tobuf(form) + bytes(1024)  # type: ignore[arg-type]
    reader = TarReader(Trickle(packed(content, compression)), compression, most=64 * MIB)
    with pytest.raises(BrokenArchive, match="breaks off"):
        list(reader.members())


@pytest.mark.timeout(20)
@pytest.mark.parametrize("map_", [f"-{2**60},{2**60},0,5", "5,5,0,5", "0,-5", "0,20", "3,-9,0,5"])
def test_a_sparse_file_whose_parts_make_no_sense(map_: str) -> None:
    info, content = entry("sparse", b"12345")
    info.pax_headers = {"GNU.sparse.map": map_, "GNU.sparse.size": "10"}
    with pytest.raises(BrokenArchive, match="parts make no sense"):
        read(tar((info, content), entry("after")))


def header_with_size(size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header whose size is these twelve bytes, whatever they say."""
    info, _ = entry("x", type=kind)
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = size
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


@pytest.mark.parametrize(
    "kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME]
)
@pytest.mark.parametrize("first", [True, False])
def test_a_size_below_zero(kind: bytes, first: bool) -> None:
    before = b"" if first else tar(entry("a", b"1"))[:1024]
    below = header_with_size(b"\xff" * 10 + b"\xfe\x00", kind)
    with pytest.raises(BrokenArchive):
        read(before + below + tar(entry("b", b"2")))


def test_a_size_below_zero_in_an_extended_header() -> None:
    info, content = entry("x", b"1")
    info.pax_headers = {"size": "-1024"}
    with pytest.raises(BrokenArchive):
        read(tar((info, content), entry("after")))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("first", [True, False])
def test_a_chain_of_extended_headers(kind: bytes, first: bool) -> None:
    """tarfile reads each within the one before."""
    before = b"" if first else tar(entry("a", b"1"))[:1024]
    with pytest.raises(BrokenArchive):
        read(before + header_of(kind, 512) + (bytes(512) + header_of(kind, 512)) * 3000)


@pytest.mark.parametrize(
    ("content", "compression"),
    [
        (b"", "none"),
        (b"x" * 5000, "none"),
        (b"x" * 5000, "gzip"),
        (b"x" * 5000, "zstd"),
        (b"", "gzip"),
        (tar(*GOOD), "gzip"),
        (tar(*GOOD), "zstd"),
    ],
)
def test_what_is_no_archive(content: bytes, compression: Compression) -> None:
    with pytest.raises(BrokenArchive):
        read(content, compression)


def test_a_header_that_is_wrong_is_not_the_end() -> None:
    """tarfile itself would stop there, and be content."""
    content = bytearray(tar(entry("a", b"1"), entry("b", b"2")))
    content[1024 + 20] ^= 1
    with pytest.raises(BrokenArchive, match="wrong"):
        read(bytes(content))


@given(st.binary(max_size=3000), st.integers(0, 5000), st.sampled_from(["none", "gzip", "zstd"]))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int, compression: Compression) -> None:
    content = bytearray(packed(tar(*GOOD), compression))
    content[at : at + len(noise)] = noise
    with suppress(ModelCacheError):
        read(bytes(content), compression)


# What is too much


def test_what_comes_out_of_it_is_limited() -> None:
    bomb = packed(tar(entry("zeros", bytes(8 * MIB))), "gzip")
    assert len(read(bomb, "gzip", most=9 * MIB)) == 1
    with pytest.raises(BrokenArchive, match="more than the disk's size"):
        read(bomb, "gzip", most=7 * MIB)
    skipped = TarReader(io.BytesIO(bomb), "gzip", most=7 * MIB)
    with pytest.raises(BrokenArchive, match="more than the disk's size"):
        for _ in skipped.members():
            pass


def test_entries_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarreading, "MAX_ENTRIES", 5)
    assert len(read(tar(*(entry(str(n)) for n in range(5))))) == 5
    with pytest.raises(BrokenArchive, match="more than 5 entries"):
        read(tar(*(entry(str(n)) for n in range(6))))


def header_of(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
@pytest.mark.parametrize("first", [True, False])
def test_headers_are_limited_in_memory(kind: bytes, first: bool) -> None:
    """tarfile reads an extended header whole, however long it says it is."""
    bomb = zlib.compressobj(1, wbits=31)
    content = b"" if first else tar(entry("a", b"1"))[:1024]
    packed_bomb = bomb.compress(content + header_of(kind, 2**33))
    for _ in range(64):
        packed_bomb += bomb.compress(b"11 path=" + bytes(MIB))
    packed_bomb += bomb.flush()
    tracemalloc.start()
    try:
        with pytest.raises(BrokenArchive, match="headers of more than"):
            read(packed_bomb, "gzip", most=2**40)
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()


def test_headers_for_all_entries_are_limited() -> None:
    """tarfile keeps them until the end, and copies them for each entry."""
    one = tar(entry("a", b"1"))[:1024]
    headers = [
        tarfile.TarInfo.create_pax_global_header({f"comment{n}": "x" * 20_000}) for n in range(10)
    ]
    assert len(read(b"".join(header + one for header in headers[:3]))) == 3
    with pytest.raises(BrokenArchive, match="for all entries"):
        read(b"".join(header + one for header in headers))


def test_a_window_of_gigabytes_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    wide = zstandard.ZstdCompressor(compression_params=parameters)
    with pytest.raises(BrokenArchive):
        read(_streamed(wide), "zstd")


def _streamed(compressor: zstandard.ZstdCompressor) -> bytes:
    """Without a size in its header, so that the window is what is asked for."""
    running = compressor.compressobj()
    return running.compress(tar(*GOOD)) + running.flush()
