"""Processes that are nobody's children here: what a machine's other users run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_HOLDER = """
import ctypes, mmap, sys, time
kind, paths = sys.argv[1], sys.argv[2:]
sys.stdin.readline()  # who started it has told its number
held = []
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
for path in paths:
    file = open(path, "rb")
    if kind == "mapped":
        # Python's own mmap keeps a descriptor.
        where = libc.mmap(None, 1, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        assert where != ctypes.c_void_p(-1).value
        file.close()
    else:
        held.append(file)
print("ready", flush=True)
time.sleep(600)
"""
_LAUNCHER = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], start_new_session=True, stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.stdin.write(b"\\n")
child.stdin.close()
"""


class Stranger:
    """A process that has files open, or mapped with no descriptor left, until the block ends."""

    def __init__(
        self, *paths: Path, kind: str = "open", through: Sequence[str] = (), user: int | None = None
    ) -> None:
        """`through` is a command that runs it, such as one that gives it other mounts."""
        holder = [*through, sys.executable, "-c", _HOLDER, kind, *map(str, paths)]
        self._launcher = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, *holder],
            stdout=subprocess.PIPE,
            text=True,
            user=user,
            cwd="/",
        )
        assert self._launcher.stdout is not None
        self.pid = int(self._launcher.stdout.readline())
        assert self._launcher.stdout.readline() == "ready\n"
        self._launcher.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Kill it, and wait until it has gone."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        assert self._launcher.stdout is not None
        if self._launcher.stdout.closed:
            return
        # Whoever adopted it takes its end in; its pipe closes when its files do.
        self._launcher.stdout.read()
        self._launcher.stdout.close()
        for _ in range(500):
            try:
                if " Z " in Path(f"/proc/{self.pid}/stat").read_text():
                    return
            except (FileNotFoundError, ProcessLookupError):
                return
            time.sleep(0.01)
