"""Evicting: a model, or one snapshot of it, goes, with all that is its own.

Touched here: all that a model has below the root, what an earlier crash left of it too, and blobs
that nothing else uses; what shows it goes by `Showing`. What is not ours stays.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from modelcache.api.meta import NAME_PATTERN
from modelcache.errors import UnsafePath
from modelcache.store.blobs import Blobs
from modelcache.store.durable import Durable
from modelcache.store.foreign import is_ours
from modelcache.store.layout import Layout
from modelcache.store.locking import Turns
from modelcache.store.manifests import Manifests
from modelcache.store.needs import Needs
from modelcache.store.paths import children
from modelcache.store.quarantine import Quarantine
from modelcache.store.receipts import Receipts
from modelcache.store.showing import Showing
from modelcache.store.shownlog import ShownLog
from modelcache.store.space import Space
from modelcache.store.verifying import look


class Evicting:
    """Removes models of a root. Safe for threads, and beside other processes."""

    def __init__(
        self,
        layout: Layout,
        durable: Durable,
        *,
        blobs: Blobs,
        quarantine: Quarantine,
        manifests: Manifests,
        receipts: Receipts,
        needs: Needs,
        shown_log: ShownLog,
        showing: Showing,
        space: Space,
        turns: Turns,
    ) -> None:
        self._layout = layout
        self._durable = durable
        self._blobs = blobs
        self._quarantine = quarantine
        self._manifests = manifests
        self._receipts = receipts
        self._needs = needs
        self._shown_log = shown_log
        self._showing = showing
        self._space = space
        self._turns = turns

    def evict(self, name: str, snapshot: str | None = None) -> int:
        """Remove a model, or one snapshot of it, and the blobs that nothing else uses.

        Without `snapshot`, what an earlier withdrawal or crash left of the model goes too.

        Returns:
            Bytes that were freed.

        Raises:
            UnsafePath: no model can have that name.
        """
        if not re.fullmatch(NAME_PATTERN, name):
            raise UnsafePath(f"{name[:80]!r} is no model's name")
        with self._turns.take():
            gone = [m for m in self._manifests.of_model(name) if snapshot in (None, m.snapshot)]
            digests = {file.sha256 for manifest in gone for file in manifest.files}
            going = {manifest.snapshot for manifest in gone}
            for manifest in gone:
                self._showing.unshow(manifest, going)
            for manifest in gone:
                self._showing.leave_hub(manifest)
                self._durable.remove_tree(self._layout.view(name, manifest.snapshot))
                self._receipts.drop(name, manifest.snapshot)
                self._needs.drop(name, manifest.snapshot)
            if snapshot is None:
                digests |= self._remove_rest(name)
            self._durable.remove_if_empty(self._layout.model(name))
            freed = self._blobs.remove_unused(digests)
            self._space.note(-freed - self._forget_linked(digests))
            for manifest in self._manifests.of_model(name):
                if manifest.snapshot in going and look(self._layout, self._blobs, manifest):
                    # Another process has committed it meanwhile: see `Showing.commit`.
                    self._showing.unshow(manifest, going)
            return freed

    def _forget_linked(self, digests: set[str]) -> int:
        """Take their names from blobs that have another one outside of the root, as what was taken
        over by a hard link has, and none inside: nothing would ever miss them here.

        Returns:
            Bytes of disk that the root takes less. None of it is free.
        """
        shown = {file.sha256 for manifest in self._manifests.all() for file in manifest.files}
        left: dict[int, tuple[str, int]] = {}
        for digest in digests - shown:
            with suppress(FileNotFoundError):
                found = self._blobs.path(digest).lstat()
                left[found.st_ino] = digest, found.st_blocks * 512
        for folder, folders, files in os.walk(self._layout.root) if left else ():
            folders[:] = [each for each in folders if Path(folder, each) != self._layout.blobs]
            for file in files:
                with suppress(FileNotFoundError):
                    left.pop(Path(folder, file).lstat().st_ino, None)
        for digest, _ in left.values():
            self._blobs.set_aside(digest)
        return sum(size for _, size in left.values())

    def _remove_rest(self, name: str) -> set[str]:
        digests = set()
        for snapshot, files in self._receipts.of_model(name):
            digests |= {file.sha256 for file in files}
            self._receipts.drop(name, snapshot)
        digests |= self._needs.drop_model(name) - self._needs.of_all()
        self._quarantine.drop(lambda each: each.model == name)
        self._durable.unlink(self._layout.current(name))
        self._shown_log.forget(name)
        for path in children(self._layout.manifests / name):
            if path.suffix == ".json":
                self._durable.unlink(path)
        folders = (*children(self._layout.hub(name)), *children(self._layout.model(name)))
        for path in folders:
            if is_ours(path):
                self._durable.remove_tree(path)
        for path in (
            self._layout.manifests / name,
            self._layout.hub(name),
            self._layout.model(name),
        ):
            self._durable.remove_if_empty(path)
        return digests
