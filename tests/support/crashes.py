"""What a process that is killed leaves of a directory: a copy of it, made between two calls."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

_CALLS: Final = (
    *("rename", "link", "symlink", "unlink", "mkdir", "rmdir"),
    *("fsync", "pwrite", "write", "posix_fallocate", "ftruncate"),
)


class Crashes:
    """Counts this process's calls that change files, of all threads, and copies at one of them.

    While it copies, no other of these calls is under way, so that the copy is what a SIGKILL would
    have left at that moment: with hard links, and without anybody's locks.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._turn = threading.RLock()
        self._left = -1
        self._places: tuple[Path, Path] | None = None
        for name in _CALLS:
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name)))

    def arm(self, root: Path, into: Path, after: int) -> None:
        """Copy `root` to `into`, which is not there yet, before the call after so many more."""
        with self._turn:
            self._left, self._places = after, (root, into)

    def disarm(self) -> Path:
        """Copy now if it was not done yet; where the copy is."""
        with self._turn:
            assert self._places is not None
            _, into = self._places
            if self._left >= 0:
                self._copy()
            return into

    def _copy(self) -> None:
        self._left = -1
        assert self._places is not None
        subprocess.run(["cp", "-a", *self._places], check=True)

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **more: Any) -> Any:
            with self._turn:
                if self._left == 0:
                    self._copy()
                elif self._left > 0:
                    self._left -= 1
                return call(*given, **more)

        return wrapped
