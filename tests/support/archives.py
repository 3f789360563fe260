"""Bundles of compile caches for tests: good ones, and archives that nobody should have made."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import zstandard

from modelcache.compilecache.bundles.manifest import (
    BundleFile,
    BundleManifest,
    Layout,
    manifest_bytes,
)
from modelcache.compilecache.bundles.members import (
    END,
    MANIFEST_MEMBER,
    header,
    member_name,
    padding,
)
from modelcache.compilecache.bundles.packing import pack
from modelcache.compilecache.bundles.statement import Archive, Producer, Statement
from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.keys.parts import (
    Accelerator,
    Cpu,
    EngineIdentity,
    Key,
    ModelIdentity,
)
from modelcache.compilecache.trees.scanning import scan

MOMENT = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)


def key(**changes: Any) -> Key:
    """A key of a vLLM on a CPU."""
    parts: dict[str, Any] = {
        "engine": EngineIdentity(name="vllm", identity="sha256:" + "e" * 64),
        "accelerator": Accelerator(vendor="cpu", product="x86-64-v3"),
        "cpu": Cpu(arch="x86_64", isa="x86-64-v3"),
        "model": ModelIdentity(id="org/name"),
        "paths": {"cacheDir": "/var/cache/modelcache"},
    }
    return Key(**parts | changes)


def statement(archive: Archive, **changes: Any) -> Statement:
    """A statement about an archive."""
    parts: dict[str, Any] = {
        "name": "tiny",
        "key": key(),
        "archive": archive,
        "producer": Producer(version="0.1.0"),
        "evidence": Evidence(source="files", ready=True),
        "created_at": MOMENT,
    }
    return Statement(**parts | changes)


def grow(root: Path, files: Mapping[str, bytes]) -> Path:
    """A directory with files of these paths."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    root.mkdir(exist_ok=True)
    return root


def packed(root: Path, files: Mapping[str, bytes], out: Path, **options: Any) -> Statement:
    """An archive of such files, and its statement."""
    return statement(pack(grow(root, files), scan(root), out, **options).archive)


def described(
    files: Mapping[str, bytes], layout: Layout = "plain", **attributes: Any
) -> BundleManifest:
    """The manifest of such files, in the order in which they are given."""
    return BundleManifest(
        layout=layout,
        files=tuple(
            BundleFile(
                path=path, size=len(content), sha256=sha256(content).hexdigest(), **attributes
            )
            for path, content in files.items()
        ),
    )


def member(name: str, content: bytes, mode: int = 0o644) -> bytes:
    """One member, as an archive of ours has it."""
    return header(name, len(content), mode) + content + bytes(padding(len(content)))


def first(manifest: BundleManifest) -> bytes:
    """The first member of an archive."""
    return member(MANIFEST_MEMBER, manifest_bytes(manifest))


def good(files: Mapping[str, bytes], layout: Layout = "plain") -> bytes:
    """All members of an archive, without its end."""
    manifest = described(files, layout)
    members = (member(member_name(layout, path), content) for path, content in files.items())
    return first(manifest) + b"".join(members)


def forged(
    out: Path,
    tar: bytes,
    about: BundleManifest,
    *,
    compression: Literal["zstd", "gzip"] = "zstd",
    end: bytes = END,
    packed: bytes | None = None,
    **claims: Any,
) -> Statement:
    """An archive of whatever bytes, and a statement that owns up to it: its maker has the say over
    all of it, as a pod has that wants its cache published.

    Args:
        packed: the archive as it is stored, instead.
        claims: what the statement says otherwise of the archive.
    """
    if packed is None:
        whole = tar + end
        packed = gzip.compress(whole) if compression == "gzip" else zstandard.compress(whole)
    out.write_bytes(packed)
    said: dict[str, Any] = {
        "digest": f"sha256:{sha256(packed).hexdigest()}",
        "size": len(packed),
        "compression": compression,
        "manifest": f"sha256:{sha256(manifest_bytes(about)).hexdigest()}",
        "files": len(about.files),
        "bytes": about.bytes,
    }
    return statement(Archive(**said | claims))


def everything_below(root: Path) -> dict[str, tuple[bytes, int, int]]:
    """Each file's content, permission bits and time of change, by its path."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            status = path.lstat()
            relative = str(path.relative_to(root))
            found[relative] = (path.read_bytes(), status.st_mode & 0o7777, status.st_mtime_ns)
    return found
