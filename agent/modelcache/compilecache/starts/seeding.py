"""Seeding: a private copy of a bundle in an engine's cache directory, before the engine starts.

    <cache_dir>/.modelcache-seeding/tree/                  unpacked here first, and checked
    <cache_dir>/.modelcache-seeding/.modelcache-seed.json  then: its children are being moved up
    <cache_dir>/.modelcache-seed.json                      written last: what was seeded

The directory is often a mount, which can't be renamed, so its children are. What a killed process
leaves the next one takes away: `.modelcache-seeding`, and what was moved out of it, as long as
nobody has written to that. What is not ours is never touched.

Nothing is synced to the disk: a machine that lost its power has another boot id, and then what is
there is compared with what was seeded.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from modelcache.compilecache.bundles.checking import RESERVED
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.manifest import BundleManifest
from modelcache.compilecache.bundles.unpacking import unpack
from modelcache.compilecache.starts.mending import mend
from modelcache.compilecache.starts.seednotes import (
    SeedNote,
    changes,
    read_note,
    this_boot,
    write_note,
)
from modelcache.compilecache.trees.copying import Owner
from modelcache.compilecache.trees.naming import name_trouble, shown
from modelcache.compilecache.trees.opening import FOLDER, root_folder
from modelcache.compilecache.trees.scanning import Limits, Tree, scan
from modelcache.errors import InsufficientDisk, TreeTooLarge, UsageError
from modelcache.store.durable import disk_errors
from modelcache.transfer.cancelling import Cancel

STAGING_NAME: Final = ".modelcache-seeding"
PATIENCE_SECONDS: Final = 300.0
"""For another process that seeds the same directory: a large bundle takes so long."""
_TREE: Final = "tree"
_NOT_CONTENT: Final = ("lost+found",)  # of a fresh ext4
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


@dataclass(frozen=True, slots=True)
class Seeded:
    """What a cache directory has now."""

    how: Literal["unpacked", "kept", "left"]
    """unpacked: the bundle is there, just now. kept: it was there already, from an earlier start,
    with all that the engine added. left: the directory has something else, and was not touched."""
    digest: str | None = None
    """The bundle that is there; None: none of ours, or nobody knows."""
    files: int = 0
    """The bundle's files."""
    bytes: int = 0
    why: str = ""
    """For people, where it is not simply unpacked."""

    @property
    def seeded(self) -> bool:
        """Whether the bundle that was asked for is there."""
        return self.how != "left"


def seed(
    bundle: LocalBundle,
    cache_dir: Path,
    *,
    owner: Owner | None = None,
    limits: Limits | None = None,
    cancel: Cancel | None = None,
) -> Seeded:
    """Put a bundle's files into a cache directory that is empty, or was seeded with it before.

    Whether the bundle is to be trusted was decided before (`bundles.trust`), with its envelope;
    that its archive is what the envelope says is checked here. The bundle is only read.

    Args:
        cache_dir: made where there is none; it may be a mount point.
        owner: to whom the files are to belong; None: to this process's user.
        limits: the most that is unpacked.

    Raises:
        BrokenBundle, NotFound: the archive is not what it should be.
        InsufficientDisk: there is too little room for all of it.
        UsageError: files can't be given to the owner.
        Cancelled
        OSError: the disk fails.
    """
    cancel = cancel or Cancel()
    _make(cache_dir, owner)
    with root_folder(cache_dir) as root, _alone(root, cancel) as alone:
        if not alone:
            return Seeded("left", why=f"another process has been seeding {cache_dir} for too long")
        seeding = _Seeding(bundle, cache_dir, root, owner, limits or Limits(), cancel)
        return seeding.run()


class _Seeding:
    """One seeding, by the one process that has the directory's lock."""

    def __init__(
        self,
        bundle: LocalBundle,
        cache_dir: Path,
        root: int,
        owner: Owner | None,
        limits: Limits,
        cancel: Cancel,
    ) -> None:
        self._bundle = bundle
        self._cache_dir = cache_dir
        self._root = root
        self._owner = owner
        self._limits = limits
        self._cancel = cancel
        self._staging = cache_dir / STAGING_NAME

    def run(self) -> Seeded:
        try:
            note = read_note(self._cache_dir)
        except UsageError as error:
            return Seeded("left", why=str(error))
        if note is not None:
            self._clear()
            return self._keep(note)
        if (why := self._undo() or self._occupied()) is not None:
            return Seeded("left", why=why)
        return self._unpack()

    def _keep(self, note: SeedNote) -> Seeded:
        archive = self._bundle.statement.archive
        if note.digest != self._bundle.digest:
            return Seeded(
                "left",
                note.digest,
                why=f"{self._cache_dir} was seeded with another bundle, {note.digest}, and may have"
                " grown since: empty it, or take another directory",
            )
        why = "it was seeded with this bundle before"
        if note.boot != this_boot():
            with self._staged() as tree:
                mended = mend(
                    self._bundle,
                    self._cache_dir,
                    note,
                    tree,
                    owner=self._owner,
                    limits=self._limits,
                    cancel=self._cancel,
                )
            write_note(self._cache_dir, note.digest, note.manifest, self._owner)
            if mended:
                why = f"{why}; {mended} files that had lost their content were restored"
        return Seeded("kept", note.digest, archive.files, archive.bytes, why)

    def _unpack(self) -> Seeded:
        archive = self._bundle.statement.archive
        check_room(self._cache_dir, archive.bytes, archive.files)
        with self._staged() as tree:
            manifest = unpack(
                self._bundle.archive,
                self._bundle.statement,
                tree,
                owner=self._owner,
                limits=self._limits,
                cancel=self._cancel,
            )
            self._move_up(tree, manifest)
        return Seeded("unpacked", self._bundle.digest, archive.files, archive.bytes)

    def _move_up(self, tree: Path, manifest: BundleManifest) -> None:
        write_note(self._staging, self._bundle.digest, manifest)  # for who has to undo it
        moved: list[str] = []
        try:
            with root_folder(tree) as staged, disk_errors():
                for name in os.listdir(staged):
                    self._cancel.check()
                    _rename_new(name, staged, self._root)
                    moved.append(name)
            write_note(self._cache_dir, self._bundle.digest, manifest, self._owner)
        except BaseException:
            for name in moved:
                _remove(name, self._root)
            raise

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """A place for a tree in a directory of ours that nobody else may look into."""
        self._clear()
        with disk_errors():
            os.mkdir(STAGING_NAME, 0o700, dir_fd=self._root)
        try:
            yield self._staging / _TREE
        finally:
            self._clear()

    def _clear(self) -> None:
        _remove(STAGING_NAME, self._root)

    def _undo(self) -> str | None:
        """Take away what a killed process left half moved; why not, where somebody wrote to it."""
        note = None
        with suppress(UsageError, FileNotFoundError, NotADirectoryError):
            note = read_note(self._staging)
        names = self._moved_up(note) if note is not None else set[str]()
        if names:
            found = changes(note, self._scan(names))
            if found.new or found.changed:
                self._clear()
                return (
                    f"{self._cache_dir} has a seed that was cut short, and somebody has written to"
                    " it since: empty it, or take another directory"
                )
            for name in names:
                _remove(name, self._root)
        self._clear()
        return None

    def _moved_up(self, note: SeedNote) -> set[str]:
        """What a killed process moved up; the rest is still in its staging."""
        names = {file.path.partition("/")[0] for file in note.manifest.files}
        with suppress(FileNotFoundError):
            names.difference_update(os.listdir(self._staging / _TREE))
        return {n for n in names if name_trouble(n) is None and not n.startswith(RESERVED)}

    def _scan(self, names: Collection[str]) -> Tree:
        """All files that these names of the directory lead to."""
        return scan(
            self._cache_dir, lambda path: path.partition("/")[0] in names, limits=self._limits
        )

    def _occupied(self) -> str | None:
        """What is in the directory already. Directories without a file are nothing: they go."""
        names = [
            name
            for name in os.listdir(self._root)
            if not name.startswith(RESERVED) and name not in _NOT_CONTENT
        ]
        if not names:
            return None
        try:
            found = self._scan(names)
            empty = not found.entries and not found.oddities
        except TreeTooLarge:
            empty = False
        if not empty:
            some = ", ".join(shown(name) for name in sorted(names)[:3])
            return (
                f"{self._cache_dir} is not empty ({some}{', …' if len(names) > 3 else ''}), and"
                " what is in it was not seeded: it is left as it is"
            )
        for name in names:
            for folder, _, _ in os.walk(self._cache_dir / name, topdown=False):
                with suppress(FileNotFoundError):
                    os.rmdir(folder)
        return None


def check_room(directory: Path, size: int, files: int) -> None:
    """Check that so many bytes in so many files fit where a directory lies.

    Raises:
        InsufficientDisk
    """
    space = os.statvfs(directory)
    available = space.f_bavail * space.f_frsize
    if size > available:
        raise InsufficientDisk(
            f"the compile cache has {size} bytes, and {directory} has room for {available}: give it"
            " more, or start without a seed",
            needed=size,
            available=available,
        )
    if space.f_files and files > space.f_favail:
        raise InsufficientDisk(
            f"the compile cache has {files} files, and {directory} has room for {space.f_favail}"
        )


def _make(cache_dir: Path, owner: Owner | None) -> None:
    with disk_errors():
        cache_dir.parent.mkdir(parents=True, exist_ok=True)
        try:
            cache_dir.mkdir(mode=0o755)
        except FileExistsError:
            return
    if owner is not None:
        with root_folder(cache_dir) as root:
            owner.take(root)


@contextmanager
def _alone(root: int, cancel: Cancel) -> Iterator[bool]:
    """Keep other seeding processes (and threads) out of a directory; False: one is in it."""
    # Of its own: a lock belongs to what was opened. A death releases it (flock(2)).
    fd = os.open(".", FOLDER, dir_fd=root)
    try:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    yield False
                    return
                cancel.wait(0.05)
                continue
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            break
        yield True
    finally:
        os.close(fd)


def _rename_new(name: str, source: int, target: int) -> None:
    """Move a name up, where nothing has it: everybody who seeds keeps to the lock."""
    try:
        os.stat(name, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    else:
        raise FileExistsError(errno.EEXIST, "somebody made it meanwhile", name)


def _remove(name: str, root: int) -> None:
    """Remove what has a name in a directory, with all below it, following no link."""
    try:
        os.unlink(name, dir_fd=root)
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=root)
    except FileNotFoundError:
        return
