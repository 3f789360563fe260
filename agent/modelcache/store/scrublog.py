"""When each blob was last read back, so that a restart goes on where the last process was.

A line for each, appended: `<digest> <seconds since the epoch>`; the later one counts. What a power
cut takes of it is read back sooner than need be, and so is what another process's rewriting does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Final

from modelcache.store.durable import Durable, disk_errors
from modelcache.store.notes import open_lines, read_note

_LINE: Final = re.compile(rb"([0-9a-f]{64}) ([0-9]{1,12})")
_MOST_BYTES: Final = 64 * 1024 * 1024
"""More than half a million lines: what is beyond that is somebody else's."""


class ScrubLog:
    """The log of a root."""

    def __init__(self, path: Path, durable: Durable) -> None:
        self._path = path
        self._durable = durable

    def read(self) -> dict[str, float]:
        """When each blob was read back, by digest, in seconds since the epoch. What can't be read
        of it says nothing."""
        try:
            content = read_note(self._path, _MOST_BYTES, beginning=True)
        except (OSError, ValueError):
            return {}
        found = (_LINE.fullmatch(line) for line in content.split(b"\n"))
        return {line[1].decode(): float(line[2]) for line in found if line is not None}

    def note(self, digest: str, at: float) -> None:
        """Note that a blob was read back, and is whole. `sync` makes it durable.

        Raises:
            InsufficientDisk: the disk is full.
        """
        # It begins with a new line, so that a torn line before it is not made longer.
        line = f"\n{digest} {int(at)}\n".encode()
        with disk_errors(len(line)):
            fd = open_lines(self._path)
            try:
                os.write(fd, line)
            finally:
                os.close(fd)

    def sync(self) -> None:
        """Have what was noted survive a power cut."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        try:
            self._durable.sync(fd)
        finally:
            os.close(fd)

    def rewrite(self, checked: Mapping[str, float], there: Container[str]) -> None:
        """Keep one line for each blob that is there, if there are many more lines.

        Raises:
            InsufficientDisk: the disk is full.
        """
        lines = [
            f"{digest} {int(at)}\n" for digest, at in sorted(checked.items()) if digest in there
        ]
        content = "".join(lines).encode()
        try:
            now = self._path.lstat().st_size
        except FileNotFoundError:
            return
        if not content:
            self._durable.unlink(self._path)
        elif now > 2 * len(content) + 4096:
            with disk_errors(len(content)):
                self._durable.write_file(self._path, content)
