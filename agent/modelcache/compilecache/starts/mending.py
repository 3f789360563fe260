"""A seeded cache after a reboot: what lost its content with the power gets it back.

Seeding syncs nothing, since nearly every seed is thrown away before the machine is. So after
another boot each seeded file that nobody wrote to since is read and compared with its digest.
"""

from __future__ import annotations

import os
from pathlib import Path

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.unpacking import unpack
from modelcache.compilecache.starts.seednotes import SeedNote, changes, digest_of
from modelcache.compilecache.trees.copying import Owner
from modelcache.compilecache.trees.opening import open_below, root_folder
from modelcache.compilecache.trees.scanning import Limits, scan
from modelcache.errors import TreeChanged
from modelcache.transfer.cancelling import Cancel


def mend(
    bundle: LocalBundle,
    cache_dir: Path,
    note: SeedNote,
    staging: Path,
    *,
    owner: Owner | None,
    limits: Limits,
    cancel: Cancel,
) -> int:
    """Restore the files that are not what was seeded, though nobody wrote to them.

    Args:
        note: what was seeded.
        staging: a directory on the same file system, to be made and used.

    Returns:
        How many were restored.

    Raises:
        BrokenBundle, NotFound, InsufficientDisk, UsageError, Cancelled
        OSError: the disk fails.
    """
    broken = _broken(cache_dir, note, limits, cancel)
    if not broken:
        return 0
    unpack(bundle.archive, bundle.statement, staging, owner=owner, limits=limits, cancel=cancel)
    with root_folder(staging) as source, root_folder(cache_dir) as target:
        for path in broken:
            folder, _, name = path.rpartition("/")
            fds = [_folder(root, folder) for root in (source, target)]
            try:
                os.rename(name, name, src_dir_fd=fds[0], dst_dir_fd=fds[1])
            finally:
                for fd in fds:
                    os.close(fd)
    return len(broken)


def _folder(root: int, path: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY
    return open_below(root, path, flags) if path else os.dup(root)


def _broken(cache_dir: Path, note: SeedNote, limits: Limits, cancel: Cancel) -> list[str]:
    digests = {file.path: file.sha256 for file in note.manifest.files}
    tree = scan(cache_dir, digests.__contains__, limits=limits)
    changed = {entry.path for entry in changes(note, tree).changed}
    broken = []
    with root_folder(cache_dir) as root:
        for entry in tree.entries:
            if entry.path in changed:
                continue
            try:
                if digest_of(root, entry, cancel) != digests[entry.path]:
                    broken.append(entry.path)
            except TreeChanged:
                continue  # somebody does write to it
    return broken
