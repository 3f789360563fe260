"""Quarantine: blobs that are not what they were, kept aside for what of them is still good.

A file of many gigabytes in which a few bytes went wrong is not fetched again whole: what its
manifest's checksums show to be good is taken from here (`transfer.salvaging`). After that it is
evidence, and keeps a bad place of the disk from being given to something else; it stays for some
days and within bounds:

    ingest/quarantine/<digest>/{data, note.json}
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelcache.api import ManifestFile
from modelcache.store.durable import Durable
from modelcache.store.layout import Layout
from modelcache.store.notes import ANY_SHAPE, number, parsed, read_note, text
from modelcache.store.paths import children

KEPT_SECONDS: Final = 7 * 86_400.0
KEPT_SHARE: Final = 0.1
"""Of the file system. Beyond it the oldest goes first, and what was healed before what was not."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES: Final = 16 * 1024 * 1024
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EMLINK)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One blob that is not what it was.

    Attributes:
        digest: the SHA-256 that it should have.
        data: its content as it is now.
        bytes: of disk.
        frees: bytes of disk that its going frees: none of what has another name still.
        at: since when it is here, in seconds since the epoch.
        model: whose it was.
        what: what is wrong with it, for a person.
        file: what its manifest said of it; None: it can't be read.
    """

    digest: str
    data: Path
    bytes: int
    frees: int
    at: float
    model: str
    what: str
    file: ManifestFile | None


class Quarantine:
    """The quarantine of a root. Safe for threads, and beside other processes."""

    def __init__(self, layout: Layout, durable: Durable) -> None:
        self._layout = layout
        self._durable = durable

    def take(self, source: Path, file: ManifestFile, *, model: str, what: str) -> bool:
        """Take a blob's name away, and keep its content; whether it was there.

        On a full disk the content goes with its name. What was here of the same digest goes.

        Raises:
            OSError: the disk failed.
        """
        making = self._durable.temporary(".quarantine")
        note = {"at": time.time(), "model": model, "what": what, "file": file.to_document()}
        try:
            making.mkdir(mode=0o700)
            self._write(making / "note.json", json.dumps(note).encode())
        except OSError as error:
            self._durable.remove_tree(making)
            if error.errno not in _NO_ROOM:
                raise
            return self._drop(source)
        # The name first: whatever comes between, nothing is left that passes for the blob.
        try:
            os.rename(source, making / "data")
        except FileNotFoundError:
            self._durable.remove_tree(making)
            return False
        self._durable.sync_directory(source.parent)
        # Both names before the entry has its own: whose it is tells when it may go.
        self._durable.sync_directory(making)
        place = self._layout.quarantine / file.sha256
        try:
            self._durable.make_directory(place.parent)
            self._durable.put_directory(making, place)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
        self._durable.remove_tree(making)
        return True

    def _write(self, path: Path, content: bytes) -> None:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            self._durable.sync(file.fileno())

    def keep(self, source: Path, file: ManifestFile, *, model: str, what: str) -> None:
        """Keep a file that has the content of a blob whose own name is gone; it stays, too."""
        aside = self._durable.temporary(".kept")
        try:
            os.link(source, aside, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            return
        self.take(aside, file, model=model, what=what)

    def _drop(self, source: Path) -> bool:
        there = source.exists()
        self._durable.unlink(source)
        return there

    def all(self) -> list[Quarantined]:
        """What is here, oldest first."""
        return sorted(self._read(), key=lambda each: each.at)

    def _read(self) -> Iterator[Quarantined]:
        for folder in children(self._layout.quarantine):
            if not _DIGEST.fullmatch(folder.name):
                continue  # somebody else's
            with suppress(FileNotFoundError, NotADirectoryError):
                found = (folder / "data").lstat()
                at, model, what, file = found.st_ctime, "", "", None
                with suppress(OSError, *ANY_SHAPE):
                    note = parsed(read_note(folder / "note.json", _MOST_BYTES))
                    at, model, what = number(note["at"]), text(note["model"]), text(note["what"])
                    file = ManifestFile.from_document(note["file"])
                size = found.st_blocks * 512
                frees = size if found.st_nlink == 1 else 0
                yield Quarantined(
                    *(folder.name, folder / "data", size, frees, at, model, what),
                    file if file is not None and file.sha256 == folder.name else None,
                )

    def find(self, identity: str, digest: str | None, size: int) -> Quarantined | None:
        """What is here of a file of an origin: by its digest, where that is known, else by its
        identity."""
        for each in self.all():
            if each.file is not None and each.file.size == size:
                same = each.digest == digest if digest else each.file.identity == identity
                if same:
                    return each
        return None

    def drop(self, which: Callable[[Quarantined], bool]) -> int:
        """Remove some of it. Returns how many bytes of disk that freed."""
        freed = 0
        for each in self._read():
            if which(each):
                self._durable.remove_tree(each.data.parent)
                freed += each.frees
        return freed

    def sweep(self, is_healed: Callable[[Quarantined], bool]) -> None:
        """Remove what was here for long enough, what is too much, and what a crash left of some."""
        for folder in children(self._layout.quarantine):
            if _DIGEST.fullmatch(folder.name) and not (folder / "data").exists():
                self._durable.remove_tree(folder)
        now = time.time()
        # A clock that was wrong when it came must not keep it for years.
        old = {each.digest for each in self._read() if abs(now - each.at) > KEPT_SECONDS}
        self.drop(lambda each: each.digest in old)
        found = os.statvfs(self._layout.root)
        most = found.f_blocks * found.f_frsize * KEPT_SHARE
        left = self.all()
        total = sum(each.bytes for each in left)
        for each in sorted(left, key=lambda each: (not is_healed(each), each.at)):
            if total <= most:
                return
            self._durable.remove_tree(each.data.parent)
            total -= each.bytes
