"""The store: verified content of models in one root, shown in views.

The order of a commit, each step durable before the next: blobs, plain view, hub view, manifest (the
commit point), `current` and the hub view's refs. The order of a removal is the other way round.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modelcache.api import Manifest, ManifestFile
from modelcache.store.blobs import Blobs
from modelcache.store.durable import Durable
from modelcache.store.ingest import Ingest
from modelcache.store.layout import open_layout
from modelcache.store.locking import locks_work, try_lock
from modelcache.store.manifests import Manifests
from modelcache.store.receipts import Receipts
from modelcache.store.reservations import KeepFree, Space
from modelcache.store.verifying import Damage, describe, look, read_back
from modelcache.store.views import (
    Staging,
    build_hub_view,
    hub_blob_name,
    refs_lead_to,
    remove_hub_view,
    write_refs,
)

_LEFTOVER_SECONDS = 3600.0


class Store:
    """One root. Safe for threads, and beside other processes on the same root."""

    def __init__(self, root: Path, *, keep_free: KeepFree | None = None) -> None:
        """Open the cache at `root`, making it if there is none.

        Raises:
            StoreDamaged: `root` can't be used.
        """
        self.layout = open_layout(root)
        self._durable = Durable(self.layout.scratch)
        reliable = locks_work(self.layout.scratch)
        self._locks_reliable = reliable
        self.blobs = Blobs(self.layout, self._durable)
        self.ingest = Ingest(self.layout.partials, self._durable, locks_reliable=reliable)
        self.space = Space(
            self.layout, self._durable, keep_free=keep_free or KeepFree(), locks_reliable=reliable
        )
        self._manifests = Manifests(self.layout, self._durable)
        self._receipts = Receipts(self.layout.receipts)
        self._mutex = threading.RLock()
        self._known: dict[str, ManifestFile] | None = None

    def manifests(self) -> list[Manifest]:
        """Every committed snapshot, oldest first."""
        with self._mutex:
            return self._manifests.all()

    def snapshots(self, name: str) -> list[Manifest]:
        """The committed snapshots of one model, oldest first."""
        return [manifest for manifest in self.manifests() if manifest.model == name]

    def current(self, name: str) -> Manifest | None:
        """The snapshot that a model's `current` leads to."""
        shown = self._manifests.current(name)
        return next((m for m in self.snapshots(name) if m.snapshot == shown), None)

    def find(
        self, identity: str, digest: str | None, size: int, *, fresh: bool = False
    ) -> ManifestFile | None:
        """Content that the store has: by its digest, where that is known, else by its identity.

        `fresh` reads again what other processes have noted meanwhile.

        Returns:
            What is known of it, under a path that it has in some model; None when it isn't there.
        """
        with self._mutex:
            if self._known is None or fresh:
                self._known = self._read_known()
            file = self._known.get(f"sha256:{digest}" if digest else identity)
        digest = digest or (file.sha256 if file else None)
        if digest is None or not self.blobs.has(digest, size):
            return None
        # A blob that nothing speaks of: a kill came between its name and the note.
        return file or describe(self.blobs, digest, size, identity)

    def _read_known(self) -> dict[str, ManifestFile]:
        known: dict[str, ManifestFile] = {}
        for file in self._receipts.read():
            known[file.identity] = known[f"sha256:{file.sha256}"] = file
        for manifest in self.manifests():
            for file in manifest.files:
                known[file.identity] = known[f"sha256:{file.sha256}"] = file
        return known

    def record(self, name: str, snapshot: str, file: ManifestFile) -> None:
        """Note that a file of a snapshot being fetched has its blob."""
        self._receipts.append(name, snapshot, file)
        with self._mutex:
            if self._known is not None:
                self._known[file.identity] = self._known[f"sha256:{file.sha256}"] = file

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        """A view to build; what isn't published is removed at the end."""
        staging = Staging(self.layout, self.blobs, self._durable)
        try:
            yield staging
        finally:
            staging.close()

    def commit(self, staging: Staging, manifest: Manifest) -> None:
        """Show a snapshot whose files all have their blobs and are linked in `staging`."""
        with self._mutex:
            self.blobs.sync(file.sha256 for file in manifest.files)
            staging.publish(self.layout.view(manifest.model, manifest.snapshot))
            if manifest.hub is not None:
                build_hub_view(self.layout, self.blobs, self._durable, staging, manifest)
            self._manifests.write(manifest)
            self.show(manifest)
            self._receipts.drop(manifest.model, manifest.snapshot)

    def show(self, manifest: Manifest) -> None:
        """Let `current` and the hub view's refs lead to a committed snapshot."""
        if self._manifests.current(manifest.model) != manifest.snapshot:
            self._durable.symlink(manifest.snapshot, self.layout.current(manifest.model))
        write_refs(self.layout, self._durable, manifest)

    def is_shown(self, manifest: Manifest) -> bool:
        """Whether `current` and the hub view lead to it, as `show` leaves them."""
        return self._manifests.current(manifest.model) == manifest.snapshot and refs_lead_to(
            self.layout, manifest
        )

    def look(self, manifest: Manifest) -> list[Damage]:
        """What is missing of a snapshot, by names and sizes alone."""
        return look(self.layout, self.blobs, manifest)

    def verify(
        self,
        manifest: Manifest,
        on_bytes: Callable[[int], None] = lambda _: None,
        stop: Callable[[], None] = lambda: None,
    ) -> list[Damage]:
        """Read a snapshot back, whole. See `verifying.read_back`."""
        damages = {damage.path: damage for damage in self.look(manifest)}
        digests: dict[str, Damage | None] = {}
        for file in manifest.files:
            if file.path in damages and damages[file.path].blob:
                continue
            if file.sha256 not in digests:
                digests[file.sha256] = read_back(self.blobs, file, on_bytes, stop)
            damage = digests[file.sha256]
            if damage is not None:
                damages[file.path] = damage
        return list(damages.values())

    def withdraw(self, manifest: Manifest, damages: list[Damage]) -> None:
        """Stop showing a snapshot that is damaged, and every other that shares a bad blob.

        Good blobs stay, so that only the bad ones are fetched again.
        """
        bad = {damage.sha256 for damage in damages if damage.blob}
        with self._mutex:
            for other in self.manifests():
                shares = any(file.sha256 in bad for file in other.files)
                if not shares and (other.model, other.snapshot) != (
                    manifest.model,
                    manifest.snapshot,
                ):
                    continue
                for file in other.files:
                    if file.sha256 not in bad:
                        self._receipts.append(other.model, other.snapshot, file)
                self._unshow(other)
                self._remove_hub(other)
            for digest in bad:
                self.blobs.set_aside(digest)

    def evict(self, name: str, snapshot: str | None = None) -> int:
        """Remove a model, or one snapshot of it, and the blobs that nothing else uses.

        Returns:
            Bytes that were freed.
        """
        with self._mutex:
            gone = [m for m in self.snapshots(name) if snapshot in (None, m.snapshot)]
            for manifest in gone:
                self._unshow(manifest)
            for manifest in gone:
                self._remove_hub(manifest)
                self._durable.remove_tree(self.layout.view(name, manifest.snapshot))
                self._receipts.drop(name, manifest.snapshot)
            self._durable.remove_if_empty(self.layout.model(name))
            return self.blobs.remove_unused(f.sha256 for m in gone for f in m.files)

    def _unshow(self, manifest: Manifest) -> None:
        """The manifest goes first; an older snapshot of the model takes over, if there is one."""
        self._manifests.remove(manifest.model, manifest.snapshot)
        if self._manifests.current(manifest.model) == manifest.snapshot:
            left = [m for m in self.snapshots(manifest.model) if not self.look(m)]
            if left:
                self.show(left[-1])
            else:
                self._durable.unlink(self.layout.current(manifest.model))

    def _remove_hub(self, manifest: Manifest) -> None:
        others = [m for m in self.snapshots(manifest.model) if m.hub is not None]
        if any(m.hub == manifest.hub and m.snapshot != manifest.snapshot for m in others):
            return  # the same commit in another selection: its view is the one that is there
        keep = {
            hub_blob_name(file)
            for m in others
            if m.hub and manifest.hub and m.hub.repository == manifest.hub.repository
            for file in m.files
        }
        remove_hub_view(self.layout, self._durable, manifest, keep)

    def sweep(self, keep: frozenset[str] = frozenset(), *, older_than: float = 86_400.0) -> None:
        """Remove what crashes left: scratch, staged views, partial files and blobs nobody wants.

        `keep` are the keys of partial files (`ingest.blob_key`) that stay whatever their age;
        `older_than` seconds is how long the others are kept for a fetch that may come back.
        """
        for path in list(self.layout.scratch.iterdir()):
            if _age(path) >= _LEFTOVER_SECONDS:
                self._durable.remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for path in list(self.layout.staging.iterdir()):
            lock = try_lock(path / "lock") if self._locks_reliable and path.is_dir() else None
            if lock is not None or _age(path) >= 86_400.0:
                self._durable.remove_tree(path)
            if lock is not None:
                lock.release()
        self.ingest.sweep(keep, older_than)
        self._receipts.sweep(older_than)
        with self._mutex:
            waiting = {file.sha256 for file in self._receipts.read()}
            unused = (
                path for path in self.layout.blobs.glob("*/*") if _is_orphan(path, older_than)
            )
            self.blobs.remove_unused({path.name for path in unused} - waiting)


def _is_orphan(blob: Path, older_than: float) -> bool:
    try:
        found = blob.lstat()
    except FileNotFoundError:
        return False
    return found.st_nlink == 1 and time.time() - found.st_ctime >= older_than


def _age(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
