"""Who has files open or mapped.

Whether anybody has: a write lease on a file (fcntl(2), F_SETLEASE) is given only while nobody else
has it open, and a mapping is an open file too (`i_readcount` in fs/locks.c, since Linux 5.1). It
sees every process of the machine, of whatever user, container or namespace, and takes some
microseconds; somebody who opens the file meanwhile waits for as long. The kernel grants it to the
file's owner, and to CAP_LEASE, on local file systems. On overlayfs it doesn't see mappings, which
are of the file below.

Who has: /proc/PID/fdinfo (with `ino`, since Linux 5.14) and /proc/PID/maps, by device and inode, so
whatever path a container knows it by. Nothing there asks a file system, which may hang. Another
user's processes can be looked into with CAP_SYS_PTRACE only (proc(5)).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import re
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC
"""PROC_PID_INIT_INO of include/linux/proc_ns.h."""
_PTRACE: Final = 1 << 19  # CAP_SYS_PTRACE
_KERNEL_THREAD: Final = 0x00200000  # PF_KTHREAD
_FDINFO: Final = re.compile(rb"^(mnt_id|ino):\s+(\d+)$", re.MULTILINE)
_HIDES: Final = re.compile(r"hidepid=(?!0|off)")
_COMMAND: Final = "modelcache"

# Python's own mmap keeps a descriptor.
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_int64,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


class NotToldWhether(Exception):
    """The kernel doesn't tell whether a file is open: another user's, or a file system's that
    grants no leases."""


def is_open(path: Path) -> bool:
    """Whether anybody has a file open or mapped, this process included.

    Raises:
        NotToldWhether
        FileNotFoundError
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except BlockingIOError:
        return True  # somebody else has a lease at this moment
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotToldWhether(f"{path}: {error.strerror}") from error
    try:
        # Who opens it meanwhile has the kernel signal us: by default with SIGIO, which ends us.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return True
        raise NotToldWhether(f"{path}: {error.strerror}") from error
    finally:
        os.close(fd)
    return False


def sees_mappings(sample: Path) -> bool:
    """Whether `is_open` sees, on the file system of a file of ours that few open, files that are
    mapped and have no descriptor: found out by trying, and without writing.

    Raises:
        NotToldWhether: also where somebody else has it open at this moment.
        FileNotFoundError
    """
    if is_open(sample):
        raise NotToldWhether(f"{sample} is open")
    with sample.open("rb") as file:
        where = _libc.mmap(None, 1, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if where == _MAP_FAILED:
        raise NotToldWhether(f"{sample} can't be mapped")
    try:
        return is_open(sample)
    finally:
        _libc.munmap(where, 1)


@dataclass(frozen=True, slots=True)
class Opener:
    """A process that has some of the files open or mapped.

    Attributes:
        pid: its id.
        command: its name, as the kernel keeps it.
        inodes: which files.
        ours: whether it is this process, a child of it, or another of this program.
    """

    pid: int
    command: str
    inodes: frozenset[int]
    ours: bool


@dataclass(frozen=True, slots=True)
class Openers:
    """Those that were found.

    Attributes:
        found: by their ids.
        doubt: why there may be others, in a few words; None: there are none.
    """

    found: tuple[Opener, ...]
    doubt: str | None


def openers(
    inodes: Collection[int], sample: Path, *, deadline: float, proc: Path = Path("/proc")
) -> Openers:
    """Who has some of these files open or mapped.

    Args:
        inodes: the files, all of one file system.
        sample: a file of that file system, which may be opened.
        deadline: a moment of `time.monotonic` after which nothing more is looked at.
        proc: where the process file system is.
    """
    look = _Look(proc, frozenset(inodes))
    try:
        look.device = _Device.of(sample)
    except (OSError, ValueError) as error:
        return Openers((), f"this kernel doesn't tell which files are open ({error})")
    doubts = [doubt] if (doubt := _hidden(proc)) else []
    found: dict[int, tuple[_Process, frozenset[int]]] = {}
    parents: dict[int, int] = {}
    unread = 0
    for pid in _pids(proc):
        if time.monotonic() > deadline:
            doubts.append("there are too many processes to look at all of them in time")
            break
        try:
            process = _Process.read(proc, pid)
            parents[pid] = process.parent
            held = look.of(process) if process.may_hold else frozenset()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except PermissionError:
            unread += 1
            continue
        if held:
            found[pid] = (process, held)
    if unread:
        doubts.append(f"processes of other users can't be looked into ({unread})")
    mine = _descendants(os.getpid(), parents)
    return Openers(
        tuple(
            Opener(pid, process.command, held, pid in mine or _is_ours(proc, pid))
            for pid, (process, held) in sorted(found.items())
        ),
        "; ".join(doubts) or None,
    )


@dataclass(frozen=True, slots=True)
class _Device:
    """How a file system is called in mountinfo and in maps: not always by what stat(2) says."""

    mounted: bytes
    mapped: bytes

    @classmethod
    def of(cls, sample: Path) -> _Device:
        with sample.open("rb") as file:
            fd, inode = file.fileno(), os.fstat(file.fileno()).st_ino
            info = dict(_FDINFO.findall(Path(f"/proc/self/fdinfo/{fd}").read_bytes()))
            if info.get(b"ino") != str(inode).encode():
                raise ValueError("it is older than Linux 5.14, or hides inodes")
            mounted = _mounts(Path("/proc/self/mountinfo")).get(info[b"mnt_id"], b"")
            with mmap.mmap(fd, 1, prot=mmap.PROT_READ):
                maps = Path("/proc/self/maps").read_bytes()
        lines = re.findall(rb"^\S+ \S+ \S+ (\S+) (\d+) ", maps, re.MULTILINE)
        devices = {device for device, number in lines if number == str(inode).encode()}
        if len(devices) != 1 or not mounted:
            raise ValueError("its mappings have other inodes")
        return cls(mounted, devices.pop())


@dataclass(frozen=True, slots=True)
class _Process:
    """What /proc/PID/stat says, for anybody (proc(5))."""

    folder: Path
    command: str
    parent: int
    may_hold: bool

    @classmethod
    def read(cls, proc: Path, pid: int) -> _Process:
        folder = proc / str(pid)
        text = (folder / "stat").read_bytes().decode(errors="replace")
        command, _, rest = text.partition("(")[2].rpartition(") ")
        fields = rest.split()
        holds = fields[0] not in "ZX" and not int(fields[6]) & _KERNEL_THREAD
        return cls(folder, command, int(fields[1]), holds)


@dataclass(slots=True)
class _Look:
    """One look at all processes."""

    proc: Path
    inodes: frozenset[int]
    device: _Device = field(default=_Device(b"", b""))
    mounts: dict[str, dict[bytes, bytes]] = field(default_factory=dict)

    def of(self, process: _Process) -> frozenset[int]:
        """Which of the files a process has."""
        return frozenset(self._open(process.folder)) | self._mapped(process.folder)

    def _open(self, folder: Path) -> Iterator[int]:
        for number in os.listdir(folder / "fd"):
            with suppress(FileNotFoundError):  # it was closed
                # Sockets, pipes and the like are no files: there are many.
                if not os.readlink(folder / "fd" / number).startswith("/"):
                    continue
                info = dict(_FDINFO.findall((folder / "fdinfo" / number).read_bytes()))
                inode = int(info.get(b"ino", b"0"))
                if inode in self.inodes and self._is_here(folder, info[b"mnt_id"]):
                    yield inode

    def _is_here(self, folder: Path, mount: bytes) -> bool:
        """Whether a mount, by its id in the process's namespace, is of the file system."""
        namespace = os.readlink(folder / "ns" / "mnt")
        if namespace not in self.mounts:
            self.mounts[namespace] = _mounts(folder / "mountinfo")
        # One that is gone from the namespace, or is of another, may be.
        return self.mounts[namespace].get(mount, self.device.mounted) == self.device.mounted

    def _mapped(self, folder: Path) -> frozenset[int]:
        maps = (folder / "maps").read_bytes()
        pattern = rb"^\S+ \S+ \S+ " + re.escape(self.device.mapped) + rb" (\d+) "
        found = {int(number) for number in set(re.findall(pattern, maps, re.MULTILINE))}
        return self.inodes & found


def _mounts(path: Path) -> dict[bytes, bytes]:
    """Each mount's id and its device."""
    fields = (line.split(None, 3) for line in path.read_bytes().splitlines())
    return {each[0]: each[2] for each in fields if len(each) > 3}


def _pids(proc: Path) -> list[int]:
    return sorted(int(name) for name in os.listdir(proc) if name.isdecimal())


def _descendants(pid: int, parents: dict[int, int]) -> set[int]:
    found = {pid}
    for _ in parents:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            break
        found |= more
    return found


def _is_ours(proc: Path, pid: int) -> bool:
    """Whether a process is another of this program: one that checks a model doesn't use it."""
    try:
        arguments = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    names = [argument.rpartition("/")[2] for argument in arguments[:2]]
    return _COMMAND in names or arguments[1:3] == ["-m", _COMMAND]


def _hidden(proc: Path) -> str | None:
    """Why there may be processes that are not to be seen at all."""
    try:
        namespace = (proc / "self" / "ns" / "pid").stat().st_ino
        status = (proc / "self" / "status").read_text()
        mounts = (proc / "self" / "mountinfo").read_text().splitlines()
    except OSError as error:
        return f"{proc} can't be read: {error.strerror}"
    if namespace != _INITIAL_PID_NAMESPACE:
        return "processes outside of this container can't be seen"
    capabilities = re.search(r"^CapEff:\s+([0-9a-f]+)$", status, re.MULTILINE)
    if capabilities is not None and int(capabilities[1], 16) & _PTRACE:
        return None
    hides = any(f" {proc} " in line and _HIDES.search(line) for line in mounts)
    return f"{proc} hides other users' processes (hidepid)" if hides else None
