"""All partial files of a root: who may work on which, and which may go."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from modelcache.store.durable import Durable, disk_errors
from modelcache.store.locking import PROCESS_TOKEN, Lock, try_lock
from modelcache.store.notes import clear_place
from modelcache.store.partial import Partial
from modelcache.store.paths import age


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

    def claim(self, key: str, size: int, *, resumable: bool = True) -> Partial:
        """Take a blob's partial file, as far as it got, to go on with it.

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
                return self._take(key, size, resumable, release)
        except BaseException:
            release()
            raise

    def _take(self, key: str, size: int, resumable: bool, release: Callable[[], object]) -> Partial:
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
