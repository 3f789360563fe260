"""Receipts: what was fetched for a revision that has no manifest yet.

A fetch of many files that is killed has whole blobs, and for those whose digest the origin doesn't
know (objects in S3, files) only the receipt says which file they are. A line is appended for each
file after its blob has its name; the receipts go when the manifest is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from modelcache.api import ManifestFile
from modelcache.store.durable import disk_errors
from modelcache.store.notes import clear_place, open_lines, read_lines
from modelcache.store.paths import age

_MOST_BYTES: Final = 1024 * 1024 * 1024
_LONGEST_LINE: Final = 16 * 1024 * 1024
"""A file of a tebibyte has 65,536 checksums."""


class Receipts:
    """The receipts below one folder: a file of lines for each snapshot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, tuple[int, int]] = {}

    def _path(self, model: str, snapshot: str) -> Path:
        return self._folder / f"{model}.{snapshot}.jsonl"

    def append(self, model: str, snapshot: str, file: ManifestFile) -> None:
        """Note a file whose blob is in the store.

        Raises:
            InsufficientDisk: the disk is full.
        """
        # It begins with a new line, so that a torn line before it is not made longer.
        line = b"\n" + file.model_dump_json(by_alias=True).encode() + b"\n"
        path = self._path(model, snapshot)
        clear_place(path)
        with disk_errors(len(line)):
            fd = open_lines(path)
            try:
                os.write(fd, line)
            finally:
                os.close(fd)

    def read(self) -> Iterator[ManifestFile]:
        """All files of all receipts. Torn lines are passed over."""
        for path in list(self._folder.glob("*.jsonl")):
            yield from _files(path)

    def news(self) -> Iterator[ManifestFile]:
        """What was noted since the last call, by any process. Not safe for threads."""
        read = {}
        for path in list(self._folder.glob("*.jsonl")):
            try:
                inode = path.lstat().st_ino
            except FileNotFoundError:
                continue
            known, offset = self._read.get(path, (inode, 0))
            read[path] = (inode, offset if known == inode else 0)
            for end, line in _lines(path, read[path][1]):
                read[path] = (inode, end)
                yield from _parse(line)
        self._read = read

    def forget(self) -> None:
        """Let `news` begin from the start."""
        self._read = {}

    def of_model(self, model: str) -> Iterator[tuple[str, list[ManifestFile]]]:
        """The snapshots of a model that have receipts, each with its files."""
        for path in list(self._folder.glob(f"{model}.*.jsonl")):
            yield path.name.split(".")[1], list(_files(path))

    def all(self) -> Iterator[tuple[str, str, list[ManifestFile], float]]:
        """Every model's snapshot that has receipts, its files, and when one was last added, in
        seconds since the epoch."""
        for path in list(self._folder.glob("*.jsonl")):
            with suppress(FileNotFoundError):
                model, snapshot, *_ = path.name.split(".")
                yield model, snapshot, list(_files(path)), path.lstat().st_mtime

    def drop(self, model: str, snapshot: str) -> None:
        """The manifest is there: the receipts have done their work."""
        self._path(model, snapshot).unlink(missing_ok=True)

    def sweep(self, older_than: float) -> None:
        """Remove receipts that were not added to for so many seconds."""
        for path in list(self._folder.glob("*.jsonl")):
            try:
                if age(path.stat().st_mtime) >= older_than:
                    path.unlink()
            except FileNotFoundError:
                continue


def _files(path: Path) -> Iterator[ManifestFile]:
    for _, line in _lines(path, 0):
        yield from _parse(line)


def _lines(path: Path, offset: int) -> Iterator[tuple[int, bytes]]:
    with suppress(FileNotFoundError, ValueError):
        yield from read_lines(path, _MOST_BYTES, longest=_LONGEST_LINE, offset=offset)


def _parse(line: bytes) -> Iterator[ManifestFile]:
    if line:
        with suppress(ValidationError):
            yield ManifestFile.model_validate_json(line)
