"""A memory cgroup for tests that run as root: v1's controller, or v2's where that has it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcache.host.mounts import read_mounts


class MemoryGroup:
    """A group with a limit, to which processes are added."""

    def __init__(self, folder: Path, *, v2: bool) -> None:
        self._folder = folder
        self._v2 = v2

    def limit(self, size: int) -> None:
        """Set the limit, in bytes."""
        name = "memory.max" if self._v2 else "memory.limit_in_bytes"
        (self._folder / name).write_text(str(size))

    @property
    def used(self) -> int:
        """Bytes that are charged to it."""
        name = "memory.current" if self._v2 else "memory.usage_in_bytes"
        return int((self._folder / name).read_text())

    def stat(self, name: str) -> int:
        """A number of `memory.stat`."""
        words = (self._folder / "memory.stat").read_text().split()
        return int(words[words.index(name) + 1])

    def command(self, *command: str | Path) -> Sequence[str]:
        """A command line that runs a command in the group."""
        script = f'echo $$ > "{self._folder}/cgroup.procs" && exec "$@"'
        return ("sh", "-c", script, "sh", *map(str, command))


@contextmanager
def memory_group(size: int) -> Iterator[MemoryGroup]:
    """A group with a limit of so many bytes."""
    mounts = read_mounts()
    found = [m for m in mounts if m.fs_type == "cgroup" and "memory" in m.fs_options]
    v2 = not found
    found = found or [m for m in mounts if m.fs_type == "cgroup2"]
    if not found:
        pytest.skip("no memory cgroup is mounted here")
    folder = Path(found[0].point) / f"modelcache-test-{os.getpid()}"
    folder.mkdir()
    try:
        group = MemoryGroup(folder, v2=v2)
        group.limit(size)
        yield group
    finally:
        for process in (folder / "cgroup.procs").read_text().split():
            os.kill(int(process), signal.SIGKILL)
        folder.rmdir()
