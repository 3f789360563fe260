"""A disk that is full from one call on: the calls that need room fail below one directory."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_OF_FILES = ("pwrite", "write", "fsync", "posix_fallocate")
_OF_NAMES = ("mkdir", "link", "rename", "symlink")


class FullDisk:
    """Counts the calls of this process that need room below a directory, and lets them fail.

    `refused` are the names of those that failed. Files made by `open` are not counted: what is
    written to them is.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = str(root)
        self._mutex = threading.Lock()
        self._left: float = float("inf")
        self.refused: list[str] = []
        self._patches = monkeypatch.context()
        patches = self._patches.__enter__()
        for name in _OF_FILES:
            patches.setattr(os, name, self._wrapped(name, getattr(os, name), _of_descriptor))
        for name in _OF_NAMES:
            patches.setattr(os, name, self._wrapped(name, getattr(os, name), _of_path))

    def fill(self, after: int) -> None:
        """Let every call fail after so many more."""
        self._left = after

    def restore(self) -> None:
        """There is room again, and the calls are left alone."""
        self._patches.__exit__(None, None, None)

    def _wrapped(
        self, name: str, call: Callable[..., Any], place: Callable[..., str]
    ) -> Callable[..., Any]:
        def wrapped(*given: Any, **more: Any) -> Any:
            if place(*given).startswith(self._root):
                with self._mutex:
                    self._left -= 1
                    if self._left < 0:
                        self.refused.append(name)
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place(*given))
            return call(*given, **more)

        return wrapped


def _of_descriptor(fd: int, *_: Any) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def _of_path(*paths: Any) -> str:
    names = [path for path in paths if isinstance(path, str | os.PathLike)]
    return str(names[-1])
