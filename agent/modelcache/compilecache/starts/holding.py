"""The bundles that a node holds, and which one the next start of a cache is seeded from.

    compile/<name>/<key>/<digest>/{bundle.json, archive.tar.zst}
    compile/<name>/current -> <key>/<digest>

A bundle's directory appears whole, by one rename, and is never changed. What shows it comes after
it and goes before it, so that after a crash `current` leads to a bundle that is there, or is
missing. What a name in the tree says was true when it was put there; whoever seeds from a bundle
checks it again (`bundles.trust`, `bundles.unpacking`).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelcache.api.compilecache import KEY_PATTERN
from modelcache.api.meta import NAME_PATTERN
from modelcache.compilecache.bundles.local import ARCHIVE_NAMES, ENVELOPE_NAME, LocalBundle
from modelcache.compilecache.starts.using import InUse, alone
from modelcache.errors import NotFound, UnsafePath
from modelcache.store.blobs import Blobs
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout
from modelcache.store.locking import Turns, try_lock
from modelcache.store.paths import children

ARCHIVES: Final = frozenset(ARCHIVE_NAMES.values())

_HEX = re.compile(KEY_PATTERN)
_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class Held:
    """One bundle on this node, by its names alone: nothing of its content was read."""

    name: str
    """The compile cache."""
    key: str
    """64 hex digits."""
    digest: str
    """64 hex digits: the bundle's digest without `sha256:`."""
    directory: Path

    @property
    def archive(self) -> Path:
        """The archive.

        Raises:
            NotFound: the directory has none, or went away.
        """
        for name in ARCHIVES:
            path = self.directory / name
            if path.is_file() and not path.is_symlink():
                return path
        raise NotFound(f"{self.directory} has no archive in it: remove it, and it is fetched again")

    @property
    def bytes(self) -> int:
        """Bytes of the archive; 0 where it went away."""
        try:
            return self.archive.lstat().st_size
        except (NotFound, FileNotFoundError):
            return 0

    def open(self) -> LocalBundle:
        """Read what it says of itself. Whether to trust that is another question.

        Raises:
            NotFound: it was just removed.
            BrokenBundle
        """
        return LocalBundle.open(self.directory)


class Holding:
    """The bundles below one root. Safe for threads, and beside other processes."""

    def __init__(self, layout: Layout, durable: Durable) -> None:
        self.layout = layout
        self._durable = durable
        self._blobs = Blobs(layout, durable)
        self._turns = Turns(layout.compile_lock)

    def names(self) -> list[str]:
        """The compile caches that there is anything of, sorted."""
        found = children(self.layout.compile)
        return sorted(path.name for path in found if _NAME.fullmatch(path.name) and path.is_dir())

    def all(self) -> tuple[Held, ...]:
        """Every bundle, by name, the oldest of a name first."""
        return tuple(held for name in self.names() for held in self.of(name))

    def of(self, name: str) -> tuple[Held, ...]:
        """The bundles of one compile cache, the oldest first.

        Raises:
            UnsafePath: no compile cache can have that name.
        """
        found = []
        for folder in children(self._cache(name)):
            if not _HEX.fullmatch(folder.name) or folder.is_symlink():
                continue
            for path in children(folder):
                if not _HEX.fullmatch(path.name) or path.is_symlink():
                    continue
                with suppress(FileNotFoundError):
                    stamp = (path / ENVELOPE_NAME).lstat().st_mtime_ns
                    found.append((stamp, Held(name, folder.name, path.name, path)))
        return tuple(held for _, held in sorted(found, key=lambda each: (each[0], each[1].digest)))

    def find(self, name: str, key: str, digest: str) -> Held | None:
        """One bundle, if it is here. `digest` with or without `sha256:`.

        Raises:
            UnsafePath
        """
        held = self._held(name, key, digest)
        return held if (held.directory / ENVELOPE_NAME).is_file() else None

    def current(self, name: str) -> Held | None:
        """The bundle that the next start is seeded from."""
        try:
            key, _, digest = os.readlink(self.layout.compile_current(name)).partition("/")
            return self.find(name, key, digest)
        except (OSError, UnsafePath):
            return None

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty directory to make a bundle in, on the root's file system.

        What is not taken out of it by `add` is removed at the end, or, after a kill, by the store's
        sweep. An archive that is a blob already is linked into it.

        Raises:
            InsufficientDisk: the disk is full.
        """
        with disk_errors():
            making = self._durable.temporary(".staging")
            folder = self.layout.staging / making.stem
            making.mkdir()
            # Locked before it has its name: no sweep finds it without an owner.
            lock = try_lock(making / "lock")
            try:
                os.rename(making, folder)
                inner = folder / "bundle"
                inner.mkdir()
                yield inner
            finally:
                for path in (making, folder):
                    self._durable.remove_tree(path)
                if lock is not None:
                    lock.release()

    def add(self, made: Path, name: str, key: str, digest: str) -> Held:
        """Put a bundle in its place. One that is there already stays: they are the same.

        Nothing shows it until `show`.

        Args:
            made: a directory below `staging` with the envelope and the archive, and nothing else.
            name: the compile cache.
            key: 64 hex digits.
            digest: the bundle's, with or without `sha256:`.

        Raises:
            InsufficientDisk: the disk is full.
            NotFound: `made` lacks the envelope or the archive.
            UnsafePath
        """
        held = self._held(name, key, digest)
        names = set(os.listdir(made))
        if ENVELOPE_NAME not in names or len(names) != 2 or not names & ARCHIVES:
            raise NotFound(f"{made} is no bundle: {ENVELOPE_NAME} and one archive belong there")
        with disk_errors(), self._turns.take():
            for each in names:
                self._settle(made / each)
            made.chmod(0o755)
            self._durable.sync_directory(made)
            self._durable.make_directory(held.directory.parent)
            try:
                self._durable.rename(made, held.directory)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._durable.remove_tree(made)  # somebody else was first
        return held

    def _settle(self, path: Path) -> None:
        """Make a file durable, and nobody's to change."""
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(fd, 0o444)
            self._durable.sync(fd)
        finally:
            os.close(fd)

    def show(self, name: str, key: str, digest: str) -> None:
        """Seed the next start of a cache from this bundle.

        Raises:
            InsufficientDisk: the disk is full.
            NotFound: it is not here.
            UnsafePath
        """
        with disk_errors(), self._turns.take():
            held = self._held(name, key, digest)
            if self.find(name, key, digest) is None:
                raise NotFound(f"{name}: no bundle {held.digest[:12]} on this node")
            target = f"{held.key}/{held.digest}"
            if self._shown(name) != target:
                self._durable.symlink(target, self.layout.compile_current(name))

    def hide(self, name: str) -> None:
        """Seed the next start of a cache from nothing.

        Raises:
            UnsafePath
        """
        self._cache(name)
        with self._turns.take():
            self._durable.unlink(self.layout.compile_current(name))

    def remove(self, name: str, key: str, digest: str, *, force: bool = False) -> int:
        """Remove one bundle; nothing shows it from then on. One that is not here is no error.

        `force` removes it also while a start says that it reads it, for one that says so for too
        long. What it has open stays readable to it.

        Returns:
            Bytes that were freed.

        Raises:
            InUse: a start is being seeded from it. Nothing shows it any more.
            UnsafePath
        """
        held = self._held(name, key, digest)
        with self._turns.take():
            if self._shown(name) == f"{held.key}/{held.digest}":
                self._durable.unlink(self.layout.compile_current(name))
            with nullcontext() if force else alone(held.directory, name):
                blob = self._blob_of(held)
                size = 0 if blob else held.bytes
                self._durable.remove_tree(held.directory)
            self._durable.remove_if_empty(held.directory.parent)
            return size + (self._blobs.remove_unused([blob]) if blob else 0)

    def forget(self, name: str) -> int:
        """Remove all of a compile cache, also what is known of its bundles.

        Its directory goes only when it is empty otherwise.

        Returns:
            Bytes that were freed.

        Raises:
            InUse: a start is being seeded from one of the bundles. The others are gone.
            UnsafePath
        """
        self.hide(name)
        freed, busy = 0, None
        for held in self.of(name):
            try:
                freed += self.remove(name, held.key, held.digest)
            except InUse as error:
                busy = error
        if busy is not None:
            raise busy
        with self._turns.take():
            self._durable.remove_tree(self.layout.compile_mark(name, "").parent)
            self._durable.unlink(self.layout.compile_last_start(name))
            self._durable.remove_if_empty(self._cache(name))
        return freed

    def sweep(self) -> None:
        """Remove what hands and crashes left: links that lead nowhere, directories without a
        bundle."""
        with self._turns.take():
            for name in self.names():
                if self._shown(name) is not None and self.current(name) is None:
                    self._durable.unlink(self.layout.compile_current(name))
                for folder in children(self._cache(name)):
                    if not _HEX.fullmatch(folder.name) or folder.is_symlink():
                        continue
                    for path in children(folder):
                        if _HEX.fullmatch(path.name) and not (path / ENVELOPE_NAME).exists():
                            self._durable.remove_tree(path)
                    self._durable.remove_if_empty(folder)

    def _shown(self, name: str) -> str | None:
        try:
            return os.readlink(self.layout.compile_current(name))
        except OSError:
            return None

    def _cache(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UnsafePath(f"{name[:80]!r} is no compile cache's name")
        return self.layout.compile_cache(name)

    def _held(self, name: str, key: str, digest: str) -> Held:
        self._cache(name)
        digest = digest.removeprefix("sha256:")
        for what in (key, digest):
            if not _HEX.fullmatch(what):
                raise UnsafePath(f"{what[:80]!r} is not a SHA-256 in hex")
        return Held(name, key, digest, self.layout.compile_bundle(name, key, digest))

    def _blob_of(self, held: Held) -> str | None:
        """The digest of the blob that the archive is a link to; None: it is no link."""
        try:
            found = held.archive.lstat()
        except (NotFound, FileNotFoundError):
            return None
        if found.st_nlink == 1:
            return None
        for folder in children(self.layout.blobs):
            for path in children(folder):
                with suppress(FileNotFoundError):
                    if path.lstat().st_ino == found.st_ino:
                        return path.name
        return None
