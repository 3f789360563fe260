"""A FUSE mount whose server answers when it is told to. For tests that run as root.

So CSI drivers mount: on the node, before the server starts in the pod.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.mounts import unmount

MOST_KIB = 1024
"""What the server says it can take in one read, in KiB."""

_HEADER = struct.Struct("<IiQ")
"""fuse_out_header of include/uapi/linux/fuse.h; fuse_in_header has its id at the same place."""
_INIT = struct.Struct("<IIIIHHIIHHI28x")
"""fuse_init_out."""


@contextmanager
def late_fuse(place: Path) -> Iterator[Callable[[], None]]:
    """A mount; what has its server answer for the first time. It serves nothing."""
    place.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bucket", os.fsencode(place), b"fuse.late", 0, options):
        raise OSError(ctypes.get_errno(), "mount")

    def answer() -> None:
        _, _, number = _HEADER.unpack_from(os.read(device, 1 << 17))
        body = _INIT.pack(7, 31, MOST_KIB << 10, 0, 12, 9, 1 << 17, 1, 0, 0, 0)
        os.write(device, _HEADER.pack(_HEADER.size + len(body), 0, number) + body)

    try:
        yield answer
    finally:
        os.close(device)
        unmount(place)
