"""Writing below a place's root: whole before it is seen, and never through anybody's link.

A bundle is made below `.staging` and renamed into its place. All is reached by descriptors of
directories, which no link was followed to.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Final

from modelcache.compilecache.bundles.local import ENVELOPE_NAME, LocalBundle
from modelcache.compilecache.places.protocol import LEFTOVER_SECONDS
from modelcache.compilecache.trees.opening import FOLDER
from modelcache.errors import OriginUnavailable, UnsafePath
from modelcache.store.durable import Durable
from modelcache.transfer.cancelling import Cancel

STAGING: Final = ".staging"
"""What is not yet whole, and what is about to go, below the place's root."""

_TRIES = 20
_BLOCK: Final = 1024 * 1024
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


@contextmanager
def kept(path: Path) -> Iterator[Path]:
    """A directory by a path that leads to itself, whatever takes its name (proc(5), /proc/pid/fd).

    Raises:
        UnsafePath: it is a link.
        OSError
    """
    try:
        fd = os.open(path, FOLDER)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink():
            raise UnsafePath(f"{_shown(path)} is a link, where a place has a directory") from error
        raise
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@contextmanager
def made(root: Path, name: str) -> Iterator[Path]:
    """As `kept`, of a directory in a root that is made where there is none."""
    with suppress(FileExistsError):
        (root / name).mkdir()
    with kept(root / name) as found:
        if found.stat().st_mode & 0o755 != 0o755:
            with suppress(PermissionError):
                found.chmod(0o755)
        Durable(root).sync_directory(root)
        yield found


def fill(durable: Durable, staged: Path, bundle: LocalBundle, cancel: Cancel) -> None:
    """Copy a bundle's files into a folder of its own."""
    with kept(staged) as folder:
        with bundle.archive.open("rb") as archive:
            _write(durable, folder / bundle.archive.name, archive, cancel)
        _write(durable, folder / ENVELOPE_NAME, BytesIO(bundle.envelope_bytes), cancel)
        durable.sync_directory(folder)


def _write(durable: Durable, path: Path, content: IO[bytes], cancel: Cancel) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
        while block := content.read(_BLOCK):
            cancel.check()
            file.write(block)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        durable.sync(file.fileno())


def move_in(durable: Durable, root: Path, staged: Path, folder: str) -> bool:
    """Rename into place; False: another was first."""
    key, _, name = folder.partition("/")
    for left in reversed(range(_TRIES)):
        try:
            with made(root, key) as parent:
                target = parent / name
                try:
                    durable.rename(staged, target)
                    return True
                except FileNotFoundError:
                    # A client of NFS that asks again is told so of what it has done itself.
                    if not staged.exists() and envelope_in(target) is not None:
                        return True
                    raise
                except OSError as error:
                    if error.errno not in _TAKEN:
                        raise
                    if envelope_in(target) is not None:
                        return False
                    # By hand, or by another program: a bundle without an envelope is none.
                    put_aside(durable, staged.parent, target)
        except FileNotFoundError:
            # Or who removed the last bundle of the key has taken its folder away.
            if not left:
                raise
    raise OriginUnavailable(f"{_shown(root)}/{folder} is made and removed by others all the time")


def put_aside(durable: Durable, staging: Path, target: Path) -> None:
    """Remove a directory: it is gone at once, its files bit by bit."""
    aside = new_folder(staging, ".gone")
    try:
        with kept(aside) as within:
            durable.rename(target, within / "bundle")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def new_folder(staging: Path, suffix: str) -> Path:
    """Make one that nobody else has, below `.staging`."""
    path = staging / f"{secrets.token_hex(8)}{suffix}"
    path.mkdir(0o755)
    with kept(path) as made:
        made.chmod(0o755)
    return path


def sweep(staging: Path, newest: Path) -> None:
    """Remove what publishers left that were killed. `newest`: just made, by the server's clock."""
    now = newest.stat().st_mtime
    with suppress(PermissionError), os.scandir(staging) as entries:
        for entry in entries:
            with (
                suppress(FileNotFoundError, NotADirectoryError, UnsafePath),
                kept(Path(entry.path)) as folder,
            ):
                times = [folder.stat().st_mtime]
                with os.scandir(folder) as inside:
                    times += [found.stat(follow_symlinks=False).st_mtime for found in inside]
                if now - max(times) >= LEFTOVER_SECONDS:
                    shutil.rmtree(entry.path, ignore_errors=True)


def _shown(path: Path) -> str:
    """Where a path of `kept` leads, for people."""
    return os.path.realpath(path.parent) + "/" + path.name


def envelope_in(folder: Path) -> os.stat_result | None:
    """What makes a folder a bundle; None: there is none, or it is a link, a fifo, a directory."""
    try:
        found = os.lstat(folder / ENVELOPE_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None
