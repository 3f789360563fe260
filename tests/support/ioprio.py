"""A thread's priority on the disk, as the kernel has it."""

from __future__ import annotations

import ctypes
import platform
from typing import Final

_IOPRIO_GET: Final = {"x86_64": 252, "aarch64": 31}


def priority_on_disk() -> tuple[int, int]:
    """(class, level) of this thread (ioprio_get(2)), by the kernel's own numbers."""
    value = ctypes.CDLL(None).syscall(_IOPRIO_GET[platform.machine()], 1, 0)
    return value >> 13, value & 7
