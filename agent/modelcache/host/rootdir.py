"""The directory that becomes a cache's root: whether it lies where a cache can, and making it the
agent's.

In a pod this runs as root without capabilities, in the agent's group. The kernel lets the owner of
a directory give it to a group that he is in, and that is all that is needed (chown(2), chmod(2)).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

from modelcache.errors import StoreDamaged, UsageError
from modelcache.host.mounts import Mount, covering

MODE: Final = 0o2775
"""Written by owner and group, and what is made in it gets its group; read by all pods."""

MOUNTED_BY_PODS: Final = ("models", "hub", "compile")
"""What pods mount with `DirectoryOrCreate`. kubelet makes it, for root alone, where it is missing:
the root and its parents as well."""

_IN_MEMORY: Final = ("tmpfs", "ramfs", "devtmpfs", "rootfs", "hugetlbfs")
_LAYERED: Final = ("overlay", "aufs")
_REMOTE: Final = (
    *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs"),
    *("beegfs", "pvfs2", "panfs", "wekafs", "ocfs2", "gfs2", "virtiofs", "vboxsf"),
)
_TRIAL: Final = ".prepare-root"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def check_mount(
    root: Path, own: Sequence[Mount], required: Path | None, host: Sequence[Mount] | None
) -> Mount:
    """The mount that the root is on, which is one that can hold a cache.

    Args:
        root: an absolute path, the same here and on the host.
        own: this process's mounts.
        required: where the file system of the root is to be mounted, or below.
        host: the host's mounts, where this process has others. In a container the root is always a
            mount of its own, which says nothing of where it lies on the host.

    Raises:
        UsageError: it can't be there, with what to do.
    """
    path = PurePosixPath(root)
    mount = covering(own, path)
    if mount is None:
        raise UsageError(f"{root}: this process's list of mounts doesn't say what it is on")
    why = _unfit(mount)
    if why:
        raise UsageError(f"{root} is on {why}: give --root a directory of a local disk")
    if required is not None:
        _check_place(root, mount, PurePosixPath(required), host)
    return mount


def take_over(root: Path, agent_id: int) -> tuple[str, ...]:
    """Let the agent write in the root, and make it where pods look.

    No content is looked at. What is as it should be is left alone.

    Args:
        root: a directory that is there.
        agent_id: the agent's user and group id.

    Returns:
        The paths that were changed or made.

    Raises:
        StoreDamaged: it can't be done, or would be of no use.
        UsageError: the root is no directory, or a symlink leads to it.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is no directory")
    if root.resolve() != root:
        raise UsageError(f"{root} leads through a symlink: give --root {root.resolve()}")
    changed: list[str] = []
    with _directory(root, str(root)) as fd:
        if _give(fd, root, agent_id):
            changed.append(str(root))
        writable = _try_to_write(fd, root, agent_id)
        for name in MOUNTED_BY_PODS:
            made = writable and _make(fd, root, name)
            if not made and not (root / name).is_symlink() and not (root / name).exists():
                continue  # the agent makes it
            with _directory(name, f"{root}/{name}", fd) as below:
                # What the agent made is as it wants it, and not ours to change.
                own = os.fstat(below).st_uid == agent_id
                if (not own and _give(below, root / name, agent_id)) or made:
                    changed.append(f"{root}/{name}")
    return tuple(changed)


def _unfit(mount: Mount) -> str:
    kind = mount.fs_type
    if kind in _IN_MEMORY:
        return f"a {kind}, which is memory"
    if kind in _LAYERED:
        return f"an {kind}, a container's own file system that goes with it"
    if kind in _REMOTE:
        return f"a network file system ({kind})"
    if kind in ("fuse", "fuseblk") or kind.startswith("fuse."):
        return f"a FUSE file system ({kind})"
    return f"a read-only mount ({kind})" if mount.read_only else ""


def _check_place(
    root: Path, own: Mount, required: PurePosixPath, host: Sequence[Mount] | None
) -> None:
    """That the file system of the root is mounted where it is asked for."""
    path = PurePosixPath(root)
    if not path.is_relative_to(required):
        raise UsageError(f"--require-mount {required}: --root {root} is not below it")
    if host is None:
        if own.point == path and own.root != PurePosixPath("/"):
            raise UsageError(
                f"--require-mount: {root} is a bind mount, as all directories of the host are in a"
                " container; mount the host's /proc/1/mountinfo and name it with --host-mountinfo"
            )
        there = own
    else:
        found = covering(host, path)
        if found is None:
            raise UsageError("--host-mountinfo doesn't say what the root is on")
        there = found
    if not there.point.is_relative_to(required):
        raise UsageError(
            f"nothing is mounted at {required}: {root} is on the file system of {there.point}"
            f" ({there.fs_type}, {there.source}). Mount the disk, or choose the nodes that have one"
        )
    if there.device != own.device:
        raise UsageError(
            f"{root} is on {own.source} here and on {there.source} on the host: the disk was"
            " mounted after this container had started, or a symlink leads to it"
        )


@contextmanager
def _directory(name: Path | str, shown: str, parent: int | None = None) -> Iterator[int]:
    """A descriptor of a directory that is not reached through a symlink."""
    try:
        fd = os.open(name, _OPEN, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise UsageError(f"{shown} is no directory, or a symlink") from error
        raise StoreDamaged(f"{shown} can't be opened: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _make(root: int, path: Path, name: str) -> bool:
    try:
        os.mkdir(name, 0o755, dir_fd=root)
    except FileExistsError:
        return False
    except OSError as error:
        raise StoreDamaged(f"{path}/{name} can't be made: {error.strerror}") from error
    return True


def _give(fd: int, path: Path, agent_id: int) -> bool:
    """Give a directory to the agent's group, with `MODE`; whether that took a change."""
    before = os.fstat(fd)
    try:
        if before.st_gid != agent_id:
            os.fchown(fd, -1, agent_id)
        # After the group: only a member may set the bit that hands the group on.
        if stat.S_IMODE(before.st_mode) != MODE:
            os.fchmod(fd, MODE)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise StoreDamaged(f"{path} can't be changed: {error.strerror}") from error
        _explain(os.fstat(fd), path, agent_id, error)
    after = os.fstat(fd)
    return (before.st_gid, before.st_mode) != (after.st_gid, after.st_mode)


def _explain(found: os.stat_result, path: Path, agent_id: int, error: OSError) -> None:
    """It may not be changed. Is it good as it is?"""
    if _may_write(found, agent_id):
        return
    what = f"{path} belongs to user {found.st_uid} and group {found.st_gid}"
    if found.st_uid != os.geteuid():
        what += f", so that it can't be given to the agent's group {agent_id} from here: do it once"
        what += f" on the node (chgrp {agent_id}, chmod g+rwxs), or give it to root"
    elif agent_id not in (os.getegid(), *os.getgroups()):
        what += f", and this process is not in the agent's group {agent_id}: give the pod"
        what += " supplementalGroups with it"
    else:
        what += " and can't be changed though it is ours: is it immutable (lsattr)?"
    raise StoreDamaged(what) from error


def _may_write(found: os.stat_result, agent_id: int) -> bool:
    """Whether its mode lets the agent make files in it."""
    wanted = stat.S_IWOTH | stat.S_IXOTH
    if found.st_uid == agent_id:
        wanted <<= 6
    elif found.st_gid == agent_id:
        wanted <<= 3
    return found.st_mode & wanted == wanted


def _try_to_write(fd: int, path: Path, agent_id: int) -> bool:
    """Find what no mode shows: a read-only file system, a broken disk, a security module's no.

    Returns:
        Whether it could be tried: not in a directory of the agent's own that is closed to others.
    """
    try:
        # One name, so that what a kill leaves is found again.
        os.close(os.open(_TRIAL, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=fd))
        with suppress(FileNotFoundError):  # another pod's init container was quicker
            os.unlink(_TRIAL, dir_fd=fd)
    except OSError as error:
        if error.errno in _FULL:
            return False  # the agent makes room
        if error.errno == errno.EACCES and os.fstat(fd).st_uid == agent_id:
            return False
        raise StoreDamaged(
            f"{path} can't be written though its mode allows it: {error.strerror}"
        ) from error
    return True
