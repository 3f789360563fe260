"""Small models put into a store without a network, and what must be true of a store at any time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from awscrt.checksums import crc32c

from modelcache.api import HubIdentity, Manifest, ManifestFile, Source
from modelcache.api.manifest import CHUNK_BYTES
from modelcache.store import Staging, Store, blob_key

COMMIT = "a" * 40
OTHER_COMMIT = "b" * 40
REPOSITORY = "org/tiny"


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def described(path: str, content: bytes, *, etag: str | None = None) -> ManifestFile:
    """What a fetch says of a file."""
    digest = digest_of(content)
    chunks = tuple(
        f"{crc32c(content[start : start + CHUNK_BYTES]):08x}"
        for start in range(0, len(content), CHUNK_BYTES)
    )
    return ManifestFile(
        path=path,
        size=len(content),
        sha256=digest,
        chunks=chunks,
        origin_path=path,
        identity=f"test:{digest}",
        etag=etag,
    )


def manifest_of(
    name: str,
    files: Mapping[str, bytes],
    *,
    commit: str = COMMIT,
    selection: str = "",
    repository: str | None = None,
    refs: tuple[str, ...] = ("main",),
) -> Manifest:
    """The manifest of a model. With a repository it gets a hub view."""
    return Manifest(
        model=name,
        revision=commit,
        snapshot=f"{commit}-{digest_of(selection.encode())[:8]}" if selection else commit,
        source=Source(uri=f"hf://{repository}" if repository else "file:///srv/m"),
        created_at=datetime.now(UTC),
        files=tuple(described(path, content) for path, content in sorted(files.items())),
        hub=HubIdentity(repository=repository, commit=commit, refs=refs) if repository else None,
    )


def put_blob(store: Store, content: bytes, *, resumable: bool = True) -> str:
    """Bring one file's content in, as a fetch does."""
    digest = digest_of(content)
    if not store.blobs.has(digest, len(content)):
        partial = store.ingest.claim(
            blob_key("", f"{digest}"), len(content), resumable=resumable and len(content) > 0
        )
        try:
            partial.allocate()
            partial.write(memoryview(content), 0)
            if content:
                partial.record(0, len(content), crc32c(content))
            partial.finish(store.blobs.path(digest))
        finally:
            partial.close()
    return digest


def stage(store: Store, staging: Staging, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        staging.add(path, put_blob(store, content))


def put(
    store: Store,
    name: str,
    files: Mapping[str, bytes],
    *,
    commit: str = COMMIT,
    selection: str = "",
    repository: str | None = None,
    refs: tuple[str, ...] = ("main",),
) -> Manifest:
    """Commit a model."""
    manifest = manifest_of(
        name, files, commit=commit, selection=selection, repository=repository, refs=refs
    )
    with store.staging() as staging:
        stage(store, staging, files)
        store.commit(staging, manifest)
    return manifest


def check(store: Store) -> None:
    """What is true of a store at any time, a crash included."""
    for manifest in store.manifests():
        assert store.verify(manifest) == [], manifest.model
    for model in (store.layout.root / "models").iterdir():
        current = model / "current"
        if current.is_symlink():
            snapshot = os.readlink(current)
            assert store.layout.manifest(model.name, snapshot).exists(), (model.name, snapshot)
    for manifest in store.manifests():
        if manifest.hub is not None and store.is_shown(manifest):
            check_hub(store.layout.hub(manifest.model), manifest)


def check_hub(cache: Path, manifest: Manifest) -> None:
    """The hub view of a shown manifest has its files, and its branches lead to it."""
    assert manifest.hub is not None
    folder = cache / f"models--{manifest.hub.repository.replace('/', '--')}"
    for ref in manifest.hub.refs:
        assert (folder / "refs" / ref).read_text() == manifest.hub.commit
    snapshot = folder / "snapshots" / manifest.hub.commit
    for file in manifest.files:
        assert digest_of((snapshot / file.origin_path).read_bytes()) == file.sha256


def leftovers(store: Store) -> list[str]:
    """All names in the root but for what an empty cache has."""
    root = store.layout.root
    empty = {"layout.json", "ingest/lock"}
    found = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    found |= {str(p.relative_to(root)) for top in ("models", "hub") for p in (root / top).iterdir()}
    found |= {str(p.relative_to(root)) for p in (root / "manifests").iterdir()}
    return sorted(found - empty)
