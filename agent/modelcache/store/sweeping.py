"""What crashes leave behind, and how it goes.

Everything here is told by its age: what is younger than `older_than` may be somebody's work in
progress, or wanted again by a fetch that comes back. Ages are counted from the last change of an
inode (ctime), which a rename is too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from modelcache.api import Manifest
from modelcache.store.blobs import Blobs
from modelcache.store.durable import Durable
from modelcache.store.foreign import is_ours
from modelcache.store.hubviews import hub_blob_name, hub_folder, prune_hub, remove_hub_snapshot
from modelcache.store.layout import Layout
from modelcache.store.locking import try_lock
from modelcache.store.manifests import Manifests
from modelcache.store.paths import age, children, folders

_SCRATCH_SECONDS = 3600.0


class Sweeping:
    """One round. What shows something (`views`, `hub`) is swept in a turn of the store."""

    def __init__(self, layout: Layout, durable: Durable, older_than: float) -> None:
        self._layout = layout
        self._durable = durable
        self._older_than = older_than

    def _is_old(self, path: Path) -> bool:
        return _age(path) >= self._older_than

    def scratch(self) -> None:
        """Names that nobody is to see: an hour is long for one of them."""
        for path in children(self._layout.scratch):
            if _age(path) >= min(_SCRATCH_SECONDS, self._older_than):
                if path.is_dir() and not path.is_symlink():
                    self._durable.remove_tree(path)
                else:
                    path.unlink(missing_ok=True)

    def staging(self, locks_reliable: bool) -> None:
        """Views whose builder died."""
        for path in children(self._layout.staging):
            if path.is_symlink():
                path.unlink(missing_ok=True)
                continue
            if not locks_reliable:
                if self._is_old(path):
                    self._durable.remove_tree(path)
                continue
            try:
                lock = try_lock(path / "lock")
            except FileNotFoundError:
                continue  # its builder has just finished
            if lock is not None:
                self._durable.remove_tree(path)
                lock.release()

    def views(self, manifests: Manifests) -> None:
        """Plain views without a manifest, and `current` where it leads to none."""
        for model in folders(self._layout.root / "models"):
            current = manifests.current(model.name)
            if current is not None and not manifests.is_there(model.name, current):
                self._durable.unlink(self._layout.current(model.name))
            for view in children(model):
                if view.is_symlink() or not view.is_dir() or not is_ours(view):
                    continue
                if not manifests.is_there(model.name, view.name) and self._is_old(view):
                    self._durable.remove_tree(view)
            if self._is_old(model):
                self._durable.remove_if_empty(model)

    def shown_logs(self, manifests: Manifests) -> None:
        """Notes of models that were withdrawn and that nothing wanted again."""
        for path in children(self._layout.shown_logs):
            if self._is_old(path) and not manifests.count(path.stem):
                self._durable.unlink(path)

    def manifests(self) -> None:
        """Folders of manifests that could not be written."""
        for folder in folders(self._layout.manifests):
            if self._is_old(folder):
                self._durable.remove_if_empty(folder)

    def hub(
        self, manifests: Manifests, readable: Iterable[Manifest], *, only: str | None = None
    ) -> None:
        """Snapshots and blobs of hub views that no manifest has; `only` of one model."""
        by_model: dict[str, list[Manifest]] = {}
        for manifest in readable:
            by_model.setdefault(manifest.model, []).append(manifest)
        for model in folders(self._layout.root / "hub"):
            if only not in (None, model.name):
                continue
            mine = by_model.get(model.name, [])
            if manifests.count(model.name) > len(mine):
                continue  # what a manifest of another version needs can't be told
            for folder in folders(model):
                if not folder.name.startswith("models--"):
                    continue
                self._hub_folder(folder, [m for m in mine if _is_in(self._layout, m, folder)])
            if self._is_old(model):
                self._durable.remove_if_empty(model)

    def _hub_folder(self, folder: Path, owners: list[Manifest]) -> None:
        commits = {manifest.hub.commit for manifest in owners if manifest.hub}
        places = (*children(folder / "snapshots"), *children(folder / "trees"))
        for path in places:
            if path.name.removesuffix(".json") not in commits and self._is_old(path):
                remove_hub_snapshot(self._durable, folder, path.name.removesuffix(".json"))
        blobs = folder / "blobs"
        if self._is_old(blobs if blobs.exists() else folder):
            prune_hub(self._durable, folder, {hub_blob_name(f) for m in owners for f in m.files})

    def orphans(self, blobs: Blobs) -> set[str]:
        """The digests of old blobs that are in no view."""
        return {path.name for path in blobs.unlinked() if self._is_old(path)}


def _is_in(layout: Layout, manifest: Manifest, folder: Path) -> bool:
    hub = manifest.hub
    return hub is not None and hub_folder(layout, manifest.model, hub) == folder


def _age(path: Path) -> float:
    """Seconds; none for what is not there."""
    try:
        return age(path.lstat().st_ctime)
    except FileNotFoundError:
        return -1.0
