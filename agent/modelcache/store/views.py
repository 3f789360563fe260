"""Views: directory trees of hard links to blobs, in the shape that engines read.

The plain view is the model's directory. The hub view is what `huggingface_hub` finds in
`HF_HUB_CACHE`: `blobs/<etag>`, `snapshots/<commit>/…` linking to them, `refs/<branch>`, and
`trees/<commit>.json`, the listing by which huggingface_hub 2 knows a snapshot to be whole. Both are
built under a name that nobody looks at, and renamed into place whole.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path, PurePosixPath

from modelcache.api import HubIdentity, Manifest, ManifestFile
from modelcache.errors import UnsafePath
from modelcache.store.blobs import Blobs
from modelcache.store.durable import Durable
from modelcache.store.layout import Layout
from modelcache.store.locking import Lock, try_lock


def relative_path(path: str) -> PurePosixPath:
    """A file's path, as long as it stays below where it is joined to.

    Origins' names were checked when they were resolved. This is the last gate before the disk, for
    manifests and receipts too.

    Raises:
        UnsafePath
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in path or "\\" in path:
        raise UnsafePath(f"{path[:200]!r} is not a path below a model's directory")
    return PurePosixPath(*parts)


class Staging:
    """A plain view being built. Blobs linked into it are safe from being removed as unused."""

    def __init__(self, layout: Layout, blobs: Blobs, durable: Durable) -> None:
        self._blobs = blobs
        self._durable = durable
        self._mutex = threading.Lock()
        self._made: set[Path] = set()
        self.folder = layout.staging / durable.temporary().name
        self.plain = self.folder / "plain"
        self.plain.mkdir(parents=True)
        self.plain.chmod(0o755)
        self._lock: Lock | None = try_lock(self.folder / "lock")

    def add(self, path: str, digest: str) -> None:
        """Link a blob to its place. Twice is as good as once.

        Raises:
            FileNotFoundError: no such blob.
        """
        target = self.plain / relative_path(path)
        with self._mutex:
            self._make_parents(target)
        self._blobs.link(digest, target)

    def _make_parents(self, target: Path) -> None:
        missing = []
        folder = target.parent
        while folder != self.plain and folder not in self._made:
            missing.append(folder)
            folder = folder.parent
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            parent.chmod(0o755)
            self._made.add(parent)

    def publish(self, target: Path) -> None:
        """Put the view in its place.

        Where the same snapshot lies there already (another agent's, or one whose manifest was lost
        or withdrawn), its files are replaced one by one and only where they differ: a pod may have
        that very directory mounted.
        """
        self._durable.make_directory(target.parent)
        if not target.is_dir():
            self._durable.sync_tree(self.plain)
            try:
                self._durable.rename(self.plain, target)
                return
            except OSError:
                if not target.is_dir():  # else another process was faster by a moment
                    raise
        for folder, _, files in os.walk(self.plain):
            place = target / Path(folder).relative_to(self.plain)
            self._durable.make_directory(place)
            for name in files:
                # Does nothing where both are the same blob (rename(2)).
                os.rename(Path(folder) / name, place / name)
        self._durable.sync_tree(target)

    def close(self) -> None:
        """Remove what is left of it."""
        if self._lock is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.release()
            self._lock = None


def hub_folder(layout: Layout, name: str, hub: HubIdentity) -> Path:
    """The repository's folder in a model's hub cache."""
    return layout.hub(name) / f"models--{hub.repository.replace('/', '--')}"


def build_hub_view(
    layout: Layout, blobs: Blobs, durable: Durable, staging: Staging, manifest: Manifest
) -> None:
    """Put the hub view of a manifest in place, all but its refs."""
    hub = manifest.hub
    assert hub is not None
    folder = hub_folder(layout, manifest.model, hub)
    for part in ("blobs", "refs", "snapshots", "trees"):
        durable.make_directory(folder / part)
    snapshot = staging.folder / "hub"
    snapshot.mkdir()
    snapshot.chmod(0o755)
    for file in manifest.files:
        _link_hub_blob(folder, blobs, file)
        place = snapshot / relative_path(file.origin_path)
        place.parent.mkdir(parents=True, exist_ok=True)
        ups = "../" * (2 + file.origin_path.count("/"))
        os.symlink(f"{ups}blobs/{hub_blob_name(file)}", place)
    for parent, _, _ in os.walk(snapshot):
        os.chmod(parent, 0o755)  # noqa: S103 - pods of any user read the views
    durable.sync_directory(folder / "blobs")
    durable.sync_tree(snapshot)
    durable.write_file(folder / "trees" / f"{hub.commit}.json", _listing(manifest), mode=0o444)
    target = folder / "snapshots" / hub.commit
    if target.is_dir():
        durable.exchange(snapshot, target)
    else:
        durable.rename(snapshot, target)


def _listing(manifest: Manifest) -> bytes:
    """The tree listing as huggingface_hub writes it (its `_tree_cache.py`, format 1).

    It lists what was selected and no more, so that a view is whole by its own list. With it, an
    offline `snapshot_download` notices a file that is missing, and an online one for this commit
    asks the Hub nothing.
    """
    files: dict[str, dict[str, str | int]] = {}
    for file in manifest.files:
        entry: dict[str, str | int] = {"size": file.size, "blob_id": hub_blob_name(file)}
        if hub_blob_name(file) == file.sha256:
            entry |= {"lfs_sha256": file.sha256, "lfs_size": file.size}
        files[file.origin_path] = entry
    return json.dumps({"format_version": 1, "files": files}, indent=1).encode()


def _link_hub_blob(folder: Path, blobs: Blobs, file: ManifestFile) -> None:
    target = folder / "blobs" / hub_blob_name(file)
    source = blobs.path(file.sha256)
    try:
        if os.path.samestat(target.lstat(), source.lstat()):
            return
        target.unlink()
    except FileNotFoundError:
        pass
    blobs.link(file.sha256, target)


def hub_blob_name(file: ManifestFile) -> str:
    """The name of a file's content in the hub view: what the Hub says its ETag is."""
    return file.etag if file.etag and file.etag.isalnum() else file.sha256


def write_refs(layout: Layout, durable: Durable, manifest: Manifest) -> None:
    """Let the branches lead to the manifest's commit: in a hub view, this is what publishes."""
    hub = manifest.hub
    if hub is None:
        return
    refs = hub_folder(layout, manifest.model, hub) / "refs"
    for ref in hub.refs:
        path = refs / relative_path(ref)
        if not path.is_file() or path.read_text() != hub.commit:
            durable.make_directory(path.parent)
            durable.write_file(path, hub.commit.encode())


def refs_lead_to(layout: Layout, manifest: Manifest) -> bool:
    """Whether `write_refs` has nothing to do, and the snapshot is there."""
    hub = manifest.hub
    if hub is None:
        return True
    folder = hub_folder(layout, manifest.model, hub)
    try:
        return (folder / "snapshots" / hub.commit).is_dir() and all(
            (folder / "refs" / relative_path(ref)).read_text() == hub.commit for ref in hub.refs
        )
    except (FileNotFoundError, NotADirectoryError):
        return False


def remove_hub_view(layout: Layout, durable: Durable, manifest: Manifest, keep: set[str]) -> None:
    """Take a manifest's hub view away; hub blobs named in `keep` are other snapshots' as well."""
    hub = manifest.hub
    if hub is None:
        return
    folder = hub_folder(layout, manifest.model, hub)
    for ref in hub.refs:
        path = folder / "refs" / relative_path(ref)
        if path.is_file() and path.read_text() == hub.commit:
            durable.unlink(path)
    durable.remove_tree(folder / "snapshots" / hub.commit)
    durable.unlink(folder / "trees" / f"{hub.commit}.json")
    for file in manifest.files:
        name = hub_blob_name(file)
        if name not in keep:
            (folder / "blobs" / name).unlink(missing_ok=True)
    if not any((folder / "snapshots").glob("*")):
        durable.remove_tree(folder)
        durable.remove_if_empty(layout.hub(manifest.model))
