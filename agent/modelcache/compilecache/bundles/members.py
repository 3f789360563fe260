"""How a bundle's archive is laid out: which members, in which order, with which headers.

A manifest leaves nothing open: it has one archive, byte for byte. So who unpacks needs no reader of
tar, which would have to take what strangers write; the headers that have to be there are made, and
compared. A link, a device, a second file of one name: each is a header that is another one.

    modelcache/manifest.json              the manifest
    io.vllm.manifest/manifest.json        what GKM's MCV says of such a cache (foreign members)
    io.vllm.cache/torch_compile_cache/…   the files, by path

In the layout `vllm` files are named as MCV has them: what is below `vllm/` (VLLM_CACHE_ROOT) lies
at the top, beside the engine's other caches, whose place MCV reads from a label (`mcv.labels`); in
`triton` it is a Triton cache alone.
https://github.com/redhat-et/GKM/blob/main/mcv/docs/spec-compat.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from modelcache.compilecache.bundles.manifest import FILE_MODE, BundleFile, BundleManifest, Layout

MANIFEST_MEMBER: Final = "modelcache/manifest.json"
BLOCK: Final = 512
"""Bytes. Each header and each content begins at a multiple of it."""
END: Final = bytes(2 * BLOCK)
"""What ends an archive (POSIX.1-2017, pax, ustar interchange format)."""
PREFIXES: Final[dict[Layout, str]] = {
    "plain": "io.modelcache.cache/",
    "vllm": "io.vllm.cache/",
    "triton": "io.triton.cache/",
}
FOREIGN_MEMBERS: Final[dict[Layout, tuple[str, ...]]] = {
    "plain": (),
    "vllm": ("io.vllm.manifest/manifest.json",),
    "triton": ("io.triton.manifest/manifest.json",),
}
"""The names that members for other programs may have."""
_USTAR: Final = struct.Struct("100s 8s 8s 8s 12s 12s 8s 1s 100s 8s 247x")
"""Name, mode, uid, gid, size, mtime, checksum, type, target, magic; the rest is zeros."""
_NAME_BYTES: Final = 100
_MAX_SIZE: Final = 0o77777777777
_VLLM: Final = "vllm/"
_TRITON: Final = "triton/"
_VLLM_TREES: Final = (f"{_VLLM}torch_compile_cache/", f"{_VLLM}torch_aot_compile/")


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its name in the archive, and what is in it."""

    name: str
    file: BundleFile
    unpacked: bool
    """Whether it becomes a file of the cache."""


def layout_of(paths: Iterable[str]) -> Layout:
    """The layout for files of these paths: one that MCV can read, where there is one."""
    paths = tuple(paths)
    if any(path.startswith(_VLLM_TREES) for path in paths) and not _collide(paths):
        return "vllm"
    if paths and all(path.startswith(_TRITON) for path in paths):
        return "triton"
    return "plain"


def _collide(paths: Iterable[str]) -> bool:
    """Whether a name at the top is also one below vllm/, so that both would have one place."""
    inside, beside = set(), set()
    for path in paths:
        if path.startswith(_VLLM):
            inside.add(path.split("/")[1])
        else:
            beside.add(path.split("/")[0])
    return not inside.isdisjoint(beside)


def member_name(layout: Layout, path: str) -> str:
    """A file's name in the archive, from its path below the cache directory."""
    if layout == "vllm":
        path = path.removeprefix(_VLLM)
    elif layout == "triton":
        path = path.removeprefix(_TRITON)
    return PREFIXES[layout] + path


def members(manifest: BundleManifest) -> Iterator[Member]:
    """All members after the manifest, in their order."""
    for file in manifest.foreign:
        yield Member(file.path, file, unpacked=False)
    for file in manifest.files:
        yield Member(member_name(manifest.layout, file.path), file, unpacked=True)


def header(name: str, size: int, mode: int = FILE_MODE) -> bytes:
    """A member's header: of a regular file of nobody's (uid 0, no name), last changed in 1970.

    ustar, with an extended header before it where the name or the size doesn't go into that (POSIX,
    pax). Made here and not by tarfile: bundles are compared with it, so it may never change.
    """
    plain, records = name.encode(), b""
    if len(plain) > _NAME_BYTES or not plain.isascii():
        records += _record("path", plain)
        plain = name.encode("ascii", "replace")[:_NAME_BYTES]
    if size > _MAX_SIZE:
        records += _record("size", str(size).encode())
        size = 0
    found = _ustar(plain, size, mode, b"0")
    if not records:
        return found
    extended = _ustar(b"././@PaxHeader", len(records), 0, b"x")
    return extended + records + bytes(padding(len(records))) + found


def _ustar(name: bytes, size: int, mode: int, kind: bytes) -> bytes:
    block = _USTAR.pack(
        *(name, b"%07o" % mode, b"%07o" % 0, b"%07o" % 0, b"%011o" % size, b"%011o" % 0),
        *(b" " * 8, kind, b"", b"ustar\x0000"),
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(name: str, value: bytes) -> bytes:
    """One line of an extended header: it begins with its own length, whose digits count too."""
    rest = b" %s=%s\n" % (name.encode(), value)
    size = len(rest)
    while size != len(rest) + len(str(size)):
        size = len(rest) + len(str(size))
    return str(size).encode() + rest


def padding(size: int) -> int:
    """Zeros after a content of so many bytes."""
    return -size % BLOCK
