"""The priority of a thread's reads and writes on the disk (ioprio_set(2)).

It counts for reads and for direct writes; what lies in the page cache is written by the kernel
itself. The I/O schedulers BFQ and mq-deadline heed it; NVMe disks often have none, and then nothing
changes. The least priority there is, idle, may wait for ever beside a pod that reads all the time,
with a lock of the file system in its hands, and the model is fetched for just such a pod: so low,
the last of the ordinary ones, is the default.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Final, Literal

IoPriority = Literal["normal", "low", "idle"]

# include/uapi/linux/ioprio.h; arch/x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS: Final = 1
_CLASS_SHIFT: Final = 13
_VALUES: Final = {"low": (2 << _CLASS_SHIFT) | 7, "idle": 3 << _CLASS_SHIFT}


def set_io_priority(priority: IoPriority) -> bool:
    """Give this thread, and no other, a priority on all disks; whether that could be done."""
    number, value = _IOPRIO_SET.get(platform.machine()), _VALUES.get(priority)
    if value is None or number is None:
        return value is None
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(number, _WHO_PROCESS, 0, value) == 0)
