"""Tar archives for tests: good ones, and such as nobody should have made."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from typing import Any

import zstandard

from modelcache.origins.protocol import Compression

OCI_TYPES: Mapping[Compression, str] = {
    "none": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}


def entry(name: str, content: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One entry: a regular file, unless `type` says otherwise."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.DIRTYPE)


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def tar(*entries: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002
    """An archive of them, in this order and under these very names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def files(given: Mapping[str, bytes], below: str = "models/") -> bytes:
    """An archive of files."""
    return tar(*(entry(below + name, content) for name, content in given.items()))


def packed(content: bytes, compression: Compression) -> bytes:
    """Compressed."""
    if compression == "gzip":
        return gzip.compress(content, 1, mtime=0)
    if compression == "zstd":
        return zstandard.compress(content, 1)
    return content


def layer(content: bytes, compression: Compression = "gzip") -> tuple[bytes, str]:
    """A layer of an image, and its media type."""
    return packed(content, compression), OCI_TYPES[compression]
