"""What a disk may have after a power cut: what was synced for certain, and of the rest anything.

POSIX promises no more than this: a file's content survives from its fsync on, and a name from the
fsync of its directory on. What came later may be on the disk or not, each name for itself. File
systems promise more (ext4 and XFS keep the order of names), which nothing here relies on.

`PowerCuts` watches a process's own calls. It follows inodes, not paths, so that a directory that is
renamed keeps what was synced of it, and hard links stay links. Two things are kinder than the
worst: a rename within one directory leaves the old name or the new one (as POSIX has it), and a
mode is the present one.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

_CALLS: Final = ("rename", "link", "symlink", "unlink", "mkdir", "rmdir", "fsync", "pwrite")
"""Before each of these the power may be cut."""


@dataclass(frozen=True, slots=True)
class _Name:
    """What a name leads to."""

    inode: int
    mode: int
    target: str = ""


class PowerCuts:
    """Watches what happens below a directory, and makes what a power cut would leave of it."""

    def __init__(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, before: Callable[[str], None]
    ) -> None:
        """What is there now is durable. `before` is called before each call that matters, with
        its name; calls in it are its own."""
        self._root = root
        self._before = before
        self._busy = False
        self._held: dict[int, int] = {}
        self._contents: dict[int, bytes] = {}
        self._listings: dict[int, dict[str, _Name]] = {}
        self._top = root.stat().st_ino
        self._hold(str(root), self._top)
        for folder, _, files in os.walk(root):
            self._listings[os.stat(folder).st_ino] = self._names(folder)
            for name in files:
                path = Path(folder) / name
                if not path.is_symlink():
                    self._contents[path.stat().st_ino] = path.read_bytes()
        for name in _CALLS:
            self._wrap(monkeypatch, name)

    def close(self) -> None:
        """Let the inodes go."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        real = getattr(os, name)

        def call(*given: Any, **named: Any) -> Any:
            if self._busy:
                return real(*given, **named)
            with self._at_work():
                self._before(name)
            result = real(*given, **named)
            if name == "fsync":
                with self._at_work():
                    self._synced(given[0])
            return result

        monkeypatch.setattr(os, name, call)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _synced(self, fd: int) -> None:
        found = os.fstat(fd)
        place = f"/proc/self/fd/{fd}"
        self._hold(place, found.st_ino)
        if stat.S_ISDIR(found.st_mode):
            self._listings[found.st_ino] = self._names(place)
        else:
            self._contents[found.st_ino] = Path(place).read_bytes()

    def _hold(self, place: str, inode: int, flags: int = 0) -> None:
        """Keep an inode, so that its number is given to no other file."""
        if inode not in self._held:
            self._held[inode] = os.open(place, os.O_PATH | os.O_CLOEXEC | flags)

    def _names(self, folder: str) -> dict[str, _Name]:
        names = {}
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            found = os.lstat(path)
            self._hold(path, found.st_ino, os.O_NOFOLLOW)
            target = os.readlink(path) if stat.S_ISLNK(found.st_mode) else ""
            names[name] = _Name(found.st_ino, found.st_mode, target)
        return names

    def cut(self, into: Path, chance: random.Random | None = None) -> None:
        """Make what is left if the power goes now.

        Args:
            into: a directory that is not there yet.
            chance: decides what of the rest is there; None: nothing but what was synced.
        """
        _Cut(self._contents, self._listings, self._held, chance).folder(self._top, into)


class _Cut:
    def __init__(
        self,
        contents: dict[int, bytes],
        listings: dict[int, dict[str, _Name]],
        held: dict[int, int],
        chance: random.Random | None,
    ) -> None:
        self._contents = contents
        self._listings = listings
        self._held = held
        self._chance = chance
        self._made: dict[int, Path] = {}

    def folder(self, inode: int, into: Path) -> None:
        into.mkdir()
        self._made[inode] = into
        durable = self._listings.get(inode, {})
        present = self._present(inode) if self._chance else durable
        for name in sorted({*durable, *present}):
            both = [durable.get(name), present.get(name)]
            found = self._chance.choice(both) if self._chance else both[0]
            if found is not None:
                self._make(found, into / name)

    def _present(self, inode: int) -> dict[str, _Name]:
        place = f"/proc/self/fd/{self._held[inode]}" if inode in self._held else None
        names: dict[str, _Name] = {}
        for name in os.listdir(place) if place else ():
            found = os.lstat(f"{place}/{name}")
            if found.st_ino not in self._held:
                flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
                self._held[found.st_ino] = os.open(f"{place}/{name}", flags)
            link = stat.S_ISLNK(found.st_mode)
            target = os.readlink(f"{place}/{name}") if link else ""
            names[name] = _Name(found.st_ino, found.st_mode, target)
        return names

    def _make(self, name: _Name, path: Path) -> None:
        if stat.S_ISLNK(name.mode):
            path.symlink_to(name.target)
        elif stat.S_ISDIR(name.mode):
            # By two names only while it is renamed from one directory to another.
            if name.inode not in self._made:
                self.folder(name.inode, path)
        elif name.inode in self._made:
            path.hardlink_to(self._made[name.inode])
        else:
            path.write_bytes(self._content(name.inode))
            path.chmod(stat.S_IMODE(name.mode))
            self._made[name.inode] = path

    def _content(self, inode: int) -> bytes:
        """The content as it was synced; else whatever: what is there now, zeros, or nothing."""
        synced = self._contents.get(inode)
        if self._chance is None:
            return synced or b""
        now = Path(f"/proc/self/fd/{self._held[inode]}").read_bytes()
        return self._chance.choice(
            [now, synced if synced is not None else bytes(len(now)), b""][
                : 3 if synced is None else 2
            ]
        )
