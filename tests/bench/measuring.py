"""One client's run in a process of its own: seconds, processor seconds, peak memory."""

from __future__ import annotations

import mmap
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
GIB = 1024 * MIB
_SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Run:
    """One client's fetch.

    Attributes:
        seconds: until its bytes are on the disk.
        cpu_seconds: of its processes, user and system.
        peak_bytes: of memory: each of its processes' own peak, as the kernel counts it, together.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int


class ClientFailed(Exception):
    """A client ended with an error; what it said last."""


def measure(
    command: Sequence[str | Path], folder: Path, env: Mapping[str, str], *, sync: bool
) -> Run:
    """Run a command and wait until what it wrote is on the disk.

    Args:
        command: with its arguments.
        folder: where it writes.
        env: its whole environment.
        sync: whether it leaves that to the kernel: then it is timed to the end of a `sync -f`.

    Raises:
        ClientFailed
    """
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        process = subprocess.Popen(
            list(map(str, command)), env=dict(env), stdout=said, stderr=said, cwd=folder
        )
        peak = _Peak(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        peak.stop()
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise ClientFailed(f"{command[0]}: {process.returncode}: " + " / ".join(lines[-3:]))
        if sync:
            subprocess.run(["sync", "-f", folder], check=True)
        seconds = time.monotonic() - began
    cpu = usage.ru_utime + usage.ru_stime
    return Run(seconds, cpu, peak.bytes)


def recycle(size: int) -> None:
    """Touch and free `size` bytes of memory, so that every client finds the machine's alike: a
    virtual machine's first touch of memory that its host took back costs more than a fetch."""
    mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def recycle_disk(folder: Path, size: int) -> None:
    """Write and delete `size` bytes, for the same reason with the blocks of a virtual disk. They
    are used again by who comes next, so that once is enough."""
    path = folder / "recycled"
    piece = bytes(MIB)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


class _Peak:
    """Samples the peaks (VmHWM) of a process and of those that it started.

    What wait4(2) tells is of no use: it counts what the process was before exec(2), which is us.
    """

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sample no more."""
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            self.bytes = max(self.bytes, sum(map(_peak, _family(self._pid))))


def _family(pid: int) -> list[int]:
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    except OSError:
        pass  # it has just ended
    return found


def _peak(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # it has just ended
    return 0
