"""Listings: what was found in an archive when it was unpacked.

With an archive's listing and the blobs of its files nobody needs the archive again: not after a
restart, and not for another image with the same layer. A listing that is lost costs a fetch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from modelcache.store.blobs import Blobs
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.notes import ANY_SHAPE, count, parsed, read_note
from modelcache.store.paths import age, children

_VERSION: Final = 2
_IDLE_SECONDS: Final = 90 * 86_400.0

Kind = Literal["file", "folder", "link", "hard", "other", "unsafe", "gone", "opaque"]
_KINDS = get_args(Kind)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES: Final = 512 * 1024 * 1024
"""Half a million names (`transfer.tarreading`), most of them short."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an archive.

    Attributes:
        kind: a regular file, a folder, a symbolic or hard link, something that is no content (a
            device, say), or whose name can't be trusted (unsafe); or, in a layer, a name that is
            gone from the layers below (a whiteout), or a folder whose content there is gone
            (opaque).
        path: from the archive's root, without a slash at either end; the root itself is empty.
        size: a file's bytes.
        sha256: a file's digest, where it was wanted and so became a blob.
        target: where a link leads, as the archive has it.
        number: its place among all entries of the archive, whichever of them are kept.
    """

    kind: Kind
    path: str
    size: int = 0
    sha256: str | None = None
    target: str = ""
    number: int = 0


class Listings:
    """The listings of a root, by the archive's digest. Those that can't be read are not there."""

    def __init__(self, folder: Path, durable: Durable) -> None:
        self._folder = folder
        self._durable = durable

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.json"

    def read(self, digest: str, below: str) -> tuple[Entry, ...] | None:
        """The entries of an archive in and around a folder of it, in the archive's order."""
        path = self._path(digest)
        entries = _load(path, below)
        if entries is not None:
            with suppress(OSError):
                os.utime(path)  # `sweep` tells by its age whether it is of use
        return entries

    def write(self, digest: str, below: str, entries: Iterable[Entry]) -> None:
        """Keep a listing, in place of one that is there.

        Raises:
            InsufficientDisk: the disk is full.
        """
        # In ASCII: names in archives need not be UTF-8.
        document = {"version": _VERSION, "below": below, "entries": [*map(astuple, entries)]}
        content = json.dumps(document, separators=(",", ":")).encode("ascii")
        with disk_errors(len(content)):
            self._durable.write_file(self._path(digest), content)

    def sweep(self, blobs: Blobs, older_than: float) -> None:
        """Remove those that were of no use for a long time, and whose content isn't here."""
        for path in children(self._folder):
            try:
                idle = age(path.stat().st_mtime)
            except FileNotFoundError:
                continue
            if idle >= max(older_than, _IDLE_SECONDS) and not any(
                entry.sha256 and blobs.has(entry.sha256, entry.size)
                for entry in _load(path, None) or ()
            ):
                path.unlink(missing_ok=True)


def _entry(given: list[Any]) -> Entry:
    """An entry as it was written. Its names are as free as those in archives are.

    Raises:
        ValueError, TypeError: it is none.
    """
    entry = Entry(*given)
    for size in (entry.size, entry.number):
        count(size)
    names = (entry.path, entry.target)
    if entry.kind not in _KINDS or not all(isinstance(name, str) for name in names):
        raise ValueError("it is no entry")
    if entry.sha256 is not None and not _DIGEST.fullmatch(entry.sha256):
        raise ValueError("it has no digest")
    return entry


def _load(path: Path, below: str | None) -> tuple[Entry, ...] | None:
    try:
        document = parsed(read_note(path, _MOST_BYTES))
        if document["version"] != _VERSION or below not in (None, document["below"]):
            return None
        return tuple(map(_entry, document["entries"]))
    except (FileNotFoundError, *ANY_SHAPE):
        return None
