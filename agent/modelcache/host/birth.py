"""When a file's inode was made: what no copy of it has, and nobody can set."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_MASK: Final = struct.Struct("=I")
_BTIME: Final = struct.Struct("=qI")
_BTIME_OFFSET: Final = 80
_libc = ctypes.CDLL(None, use_errno=True)


def born_at(path: Path) -> int | None:
    """Nanoseconds since the epoch (statx(2), `stx_btime`); None where the file system, the kernel
    or the C library doesn't say.

    ext4, XFS, Btrfs and tmpfs do. It stays what it is over renames, links, changes of owner and
    reboots; a copy of the whole device has it, too.

    Raises:
        OSError: there is no such file, or it can't be reached.
    """
    os.lstat(path)
    call = getattr(_libc, "statx", None)
    if call is None:
        return None
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if call(_AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, found):
        return None
    if not _MASK.unpack_from(found)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = _BTIME.unpack_from(found, _BTIME_OFFSET)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
