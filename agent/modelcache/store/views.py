"""The plain view: a model's directory, of hard links to blobs.

It is built under a name that nobody looks at, and renamed into place whole.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from modelcache.api import Manifest
from modelcache.store.blobs import Blobs
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout
from modelcache.store.locking import Lock, try_lock
from modelcache.store.paths import relative_path


class Staging:
    """A plain view being built. Blobs linked into it are safe from being removed as unused."""

    def __init__(self, layout: Layout, blobs: Blobs, durable: Durable) -> None:
        self._blobs = blobs
        self._durable = durable
        self._mutex = threading.Lock()
        self._made: set[Path] = set()
        making = durable.temporary(".staging")
        self.folder = layout.staging / making.stem
        self.plain = self.folder / "plain"
        making.mkdir()
        # Locked before it has its name: no sweep finds it without an owner.
        self._lock: Lock | None = try_lock(making / "lock")
        try:
            os.rename(making, self.folder)
            self.plain.mkdir()
            self.plain.chmod(0o755)
        except BaseException:
            self.close()
            self._durable.remove_tree(making)
            raise

    def add(self, path: str, digest: str) -> None:
        """Link a blob to its place. Twice is as good as once.

        Raises:
            FileNotFoundError: no such blob: it was evicted a moment ago, say.
            InsufficientDisk: the disk is full.
            UnsafePath: it would lie outside of the view.
        """
        target = self.plain / relative_path(path)
        with disk_errors():
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
            except OSError as error:
                # Another process was faster by a moment.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
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
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()
            self._lock = None


@contextmanager
def building(layout: Layout, blobs: Blobs, durable: Durable) -> Iterator[Staging]:
    """A view to build; what isn't published is removed at the end.

    Raises:
        InsufficientDisk: the disk is full.
    """
    with disk_errors():
        staging = Staging(layout, blobs, durable)
    try:
        yield staging
    finally:
        staging.close()


def link_view(layout: Layout, blobs: Blobs, durable: Durable, manifest: Manifest) -> int:
    """Let what a manifest has in its plain view be its blobs themselves, and no copies of them.

    Returns:
        How many files were not their blobs.

    Raises:
        OSError: the disk is full, or failed.
    """
    relinked = 0
    view = layout.view(manifest.model, manifest.snapshot)
    folders = set()
    for file in manifest.files:
        place = view / relative_path(file.path)
        # What is missing or of another size is for a look to tell.
        with suppress(FileNotFoundError, NotADirectoryError):
            found = place.lstat()
            is_blob = blobs.path(file.sha256).samefile(place)
            if is_blob or not blobs.has(file.sha256, found.st_size):
                continue
            temporary = durable.temporary()
            blobs.link(file.sha256, temporary)
            os.rename(temporary, place)
            folders.add(place.parent)
            relinked += 1
    for folder in folders:
        durable.sync_directory(folder)
    return relinked
