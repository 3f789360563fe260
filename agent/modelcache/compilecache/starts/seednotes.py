"""What a cache directory was seeded with: a note that lies in it, and what has changed since.

The note is the engine's user's to write, as all of the directory is. It decides what is captured
and what is told of a start, never what is trusted.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

from modelcache.api.compilecache import Digest
from modelcache.api.meta import API_VERSION, ApiModel
from modelcache.compilecache.bundles.checking import MAX_MANIFEST_BYTES
from modelcache.compilecache.bundles.manifest import BundleFile, BundleManifest
from modelcache.compilecache.keys.parts import canonical
from modelcache.compilecache.trees.copying import Owner
from modelcache.compilecache.trees.opening import opened, root_folder
from modelcache.compilecache.trees.scanning import Entry, Tree
from modelcache.errors import TreeChanged, UsageError
from modelcache.store.durable import disk_errors
from modelcache.transfer.cancelling import Cancel

NOTE_NAME: Final = ".modelcache-seed.json"
_NEW_NAME: Final = f"{NOTE_NAME}.new"
_MAX_BYTES: Final = MAX_MANIFEST_BYTES + 64 * 1024
_READ_BYTES: Final = 1024 * 1024
_GRAINS_NS: Final = (1, 100, 1000, 10**6, 10**9)
"""What file systems cut times off to: NFS servers of other systems, ext4 with small inodes."""


class SeedNote(ApiModel):
    """What a cache directory holds of a bundle, or has become one."""

    api_version: Literal["modelcache.dev/v1alpha1"] = API_VERSION
    kind: Literal["CompileSeed"] = "CompileSeed"
    digest: Digest
    """The bundle's."""
    boot: str = ""
    """During which boot of the machine it was seeded: what was not synced may be lost by another.
    The kernel's random boot_id (proc_sys_kernel(5)); empty: unknown."""
    manifest: BundleManifest
    """Its files, as they were."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How the files of a cache differ from those that it was seeded with."""

    new: tuple[Entry, ...] = ()
    """Files that no bundle brought."""
    changed: tuple[Entry, ...] = ()
    """Files that were written again; maybe with the same content."""
    damaged: tuple[Entry, ...] = ()
    """Files that are shorter than they were, though nobody wrote to them: lost with the power."""
    gone: int = 0
    """Files that are not there any more."""


def changes(note: SeedNote | None, tree: Tree) -> Changes:
    """What has changed since a cache was seeded. Without a note all of it is new."""
    seeded = {file.path: file for file in note.manifest.files} if note is not None else {}
    new, changed, damaged = list[Entry](), list[Entry](), list[Entry]()
    found = 0
    for entry in tree.entries:
        file = seeded.get(entry.path)
        if file is None:
            new.append(entry)
            continue
        found += 1
        if not _same_time(file, entry):
            changed.append(entry)
        elif file.size != entry.size:
            damaged.append(entry)
    return Changes(tuple(new), tuple(changed), tuple(damaged), len(seeded) - found)


def written(cache_dir: Path, note: SeedNote | None, tree: Tree) -> tuple[Entry, ...]:
    """The files of a scanned cache that the seed doesn't have, or has with other content.

    Engines write some files again at each start, with what was in them before: those are read, and
    don't count.

    Raises:
        OSError: the disk fails.
    """
    found = changes(note, tree)
    if note is None or not found.changed:
        return found.new
    seeded = {file.path: file for file in note.manifest.files}
    with root_folder(cache_dir) as root:
        other = [e for e in found.changed if not _has_content(root, e, seeded[e.path])]
    return (*found.new, *other)


def _has_content(root: int, entry: Entry, file: BundleFile) -> bool:
    if entry.size != file.size:
        return False
    try:
        return digest_of(root, entry) == file.sha256
    except TreeChanged:
        return False


def digest_of(root: int, entry: Entry, cancel: Cancel | None = None) -> str:
    """The SHA-256 in hex of a scanned file, below an open directory.

    Raises:
        TreeChanged: it is not what was scanned any more.
        Cancelled
        OSError: the disk fails.
    """
    digest = sha256()
    with opened(root, entry) as fd:
        while block := os.read(fd, _READ_BYTES):
            if cancel is not None:
                cancel.check()
            digest.update(block)
    return digest.hexdigest()


def read_note(cache_dir: Path) -> SeedNote | None:
    """The note of a cache directory; None: there is none.

    Raises:
        UsageError: there is one that can't be read.
        OSError: the disk fails, or there is no such directory.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with root_folder(cache_dir) as root:
        try:
            fd = os.open(NOTE_NAME, flags, dir_fd=root)
        except FileNotFoundError:
            return None
    with os.fdopen(fd, "rb") as file:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        content = file.read(_MAX_BYTES + 1) if regular else b""
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError("it is too large")
        return SeedNote.model_validate_json(content, strict=True, by_name=False, by_alias=True)
    except ValueError as error:
        raise UsageError(
            f"{cache_dir / NOTE_NAME} can't be read, so nobody knows what was seeded: remove the"
            " directory, or take another one"
        ) from error


def write_note(
    cache_dir: Path, digest: str, manifest: BundleManifest, owner: Owner | None = None
) -> None:
    """Note what a cache directory holds: after it was seeded, or after all of it was captured.

    Who is killed meanwhile leaves the old note, or none.

    Raises:
        InsufficientDisk, UsageError
        OSError: the disk fails.
    """
    note = SeedNote(digest=digest, boot=this_boot(), manifest=manifest)
    content = canonical(note.to_document())
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with root_folder(cache_dir) as root, disk_errors(len(content)):
        _unlink(_NEW_NAME, root)
        try:
            with os.fdopen(os.open(_NEW_NAME, flags, 0o600, dir_fd=root), "wb") as file:
                file.write(content)
                file.flush()
                if owner is not None:
                    owner.take(file.fileno())
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.rename(_NEW_NAME, NOTE_NAME, src_dir_fd=root, dst_dir_fd=root)
        except BaseException:
            _unlink(_NEW_NAME, root)
            raise


def this_boot() -> str:
    """The id of the machine's present boot; empty: the kernel doesn't say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _unlink(name: str, root: int) -> None:
    try:
        os.unlink(name, dir_fd=root)
    except FileNotFoundError:
        return


def _same_time(file: BundleFile, entry: Entry) -> bool:
    return any(entry.mtime_ns == file.mtime - file.mtime % grain for grain in _GRAINS_NS)
