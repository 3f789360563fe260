"""All partial files of a root: who may work on which, and which may go."""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from modelcache.api.meta import NAME_MAX, NAME_PATTERN
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.locking import PROCESS_TOKEN, Lock, try_lock
from modelcache.store.notes import clear_place, open_lines, read_note
from modelcache.store.partial import Partial
from modelcache.store.paths import age, children

_NAME = re.compile(NAME_PATTERN)
_MOST_OWNERS_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A partial file on the disk.

    Attributes:
        name: of its folder: its key, and where locks do nothing whose it is.
        owners: the models that it was fetched for, as far as that was noted.
        bytes: of disk.
        changed_at: when something of it was last written, in seconds since the epoch.
    """

    name: str
    owners: frozenset[str]
    bytes: int
    changed_at: float

    @property
    def key(self) -> str:
        """What it is found again by."""
        return self.name.partition(".")[0]


class Busy(Exception):
    """Somebody else is fetching this very blob."""


def blob_key(identity: str, digest: str | None) -> str:
    """What a partial file is found again by: the digest, or, without one, the identity."""
    return f"sha256-{digest}" if digest else f"id-{sha256(identity.encode()).hexdigest()[:48]}"


class Ingest:
    """All partial files of a root."""

    def __init__(self, folder: Path, durable: Durable, *, locks_reliable: bool) -> None:
        self._folder = folder
        self._durable = durable
        self._reliable = locks_reliable
        self._mutex = threading.Lock()
        self._claims: dict[str, bool] = {}
        """Of this process; true for what another thread has asked for in vain."""

    def _place(self, key: str) -> Path:
        return self._folder / (key if self._reliable else f"{key}.{PROCESS_TOKEN}")

    def claim(self, key: str, size: int, *, resumable: bool = True, owner: str = "") -> Partial:
        """Take a blob's partial file, as far as it got, to go on with it.

        `owner` is the model that it is fetched for, which is noted with it.

        `resumable=False` is for small files, and for such as can't be taken up in the middle: they
        have no journal, no directory and no lock. Two threads are kept apart all the same; two
        processes may both make such a file.

        Raises:
            Busy: another thread or process has it.
            InsufficientDisk: there is no room for its names.
        """
        with self._mutex:
            if key in self._claims:
                self._claims[key] = True
                raise Busy(key)
            self._claims[key] = False
        release = functools.partial(self._claims.pop, key, None)
        try:
            with disk_errors(size):
                return self._take(key, size, resumable, owner, release)
        except BaseException:
            release()
            raise

    def _take(
        self, key: str, size: int, resumable: bool, owner: str, release: Callable[[], object]
    ) -> Partial:
        def is_contended() -> bool:
            return self._claims.get(key, False)

        if not resumable:
            return Partial(
                self._folder, size, None, self._durable, on_close=release, is_contended=is_contended
            )
        folder = self._place(key)
        lock = self._lock(folder)
        if lock is None:
            raise Busy(key)
        try:
            if owner:
                _sign(folder / "lock", owner)
            return Partial(
                folder, size, lock, self._durable, on_close=release, is_contended=is_contended
            )
        except BaseException:
            lock.release()
            raise

    def _lock(self, folder: Path) -> Lock | None:
        clear_place(folder)
        while True:
            # Its last holder may remove the folder between any two of these steps.
            with suppress(FileExistsError):
                os.mkdir(folder)
            try:
                return try_lock(folder / "lock")
            except FileNotFoundError:
                continue

    def allocated(self, key: str) -> int:
        """Bytes of disk that a blob's partial file has claimed already."""
        try:
            return os.stat(self._place(key) / "data").st_blocks * 512
        except FileNotFoundError:
            return 0

    def all(self) -> Iterator[Unfinished]:
        """Every partial file that can be gone on with."""
        for folder in children(self._folder):
            with suppress(FileNotFoundError, NotADirectoryError):
                found = [path.lstat() for path in folder.iterdir()]
                yield Unfinished(
                    folder.name,
                    _owners(folder / "lock"),
                    sum(each.st_blocks for each in found if each.st_nlink == 1) * 512,
                    max((each.st_mtime for each in found), default=folder.lstat().st_mtime),
                )

    def remove(self, name: str) -> int:
        """Remove a partial file by its name, unless somebody is at work on it.

        Returns:
            Bytes of disk that it had.
        """
        if name not in {folder.name for folder in children(self._folder)}:
            return 0
        folder = self._folder / name
        try:
            lock = try_lock(folder / "lock") if self._reliable else None
        except (FileNotFoundError, NotADirectoryError):
            return 0
        if lock is None:
            return 0
        try:
            size = next((each.bytes for each in self.all() if each.name == name), 0)
            self._durable.remove_tree(folder)
            return size
        finally:
            lock.release()

    def sweep(self, keep: frozenset[str], older_than: float) -> int:
        """Remove partial files that nobody is at work on or wants.

        `older_than` is in seconds: younger ones stay, since their owner may come back.

        Returns:
            How many were removed.
        """
        removed = 0
        for folder in list(self._folder.iterdir()):
            if folder.name.partition(".")[0] in keep or not folder.is_dir():
                continue
            if folder.is_symlink():
                folder.unlink()  # not ours, what it leads to
                continue
            try:
                newest = max((p.stat().st_mtime for p in folder.iterdir()), default=0.0)
                if age(newest) < older_than:
                    continue
                lock = try_lock(folder / "lock")
            except FileNotFoundError:
                continue  # its owner has just finished
            if lock is None:
                continue
            self._durable.remove_tree(folder)
            lock.release()
            removed += 1
        return removed


def _owners(lock: Path) -> frozenset[str]:
    """The models that a partial file's lock file names. What else stands there says nothing."""
    try:
        said = read_note(lock, _MOST_OWNERS_BYTES, beginning=True)
    except (FileNotFoundError, ValueError):
        return frozenset()
    lines = said.decode("ascii", "replace").split("\n")
    return frozenset(n for n in lines if len(n) <= NAME_MAX and _NAME.fullmatch(n))


def _sign(lock: Path, owner: str) -> None:
    """Note in a lock file that is held for whom it is, unless that stands there."""
    if owner not in _owners(lock):
        fd = open_lines(lock)
        try:
            # It begins with a new line, so that a torn line before it is not made longer.
            os.write(fd, f"\n{owner}\n".encode())
        finally:
            os.close(fd)
