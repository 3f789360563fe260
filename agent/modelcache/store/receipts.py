"""Receipts: what was fetched for a revision that has no manifest yet.

A fetch of many files that is killed has whole blobs, and for those whose digest the origin doesn't
know (objects in S3, files) only the receipt says which file they are. A line is appended for each
file after its blob has its name; the receipts go when the manifest is written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from modelcache.api import ManifestFile


class Receipts:
    """The receipts below one folder: a file of lines for each snapshot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, model: str, snapshot: str) -> Path:
        return self._folder / f"{model}.{snapshot}.jsonl"

    def append(self, model: str, snapshot: str, file: ManifestFile) -> None:
        """Note a file whose blob is in the store."""
        line = file.model_dump_json(by_alias=True).encode() + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self._path(model, snapshot), flags, 0o644)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

    def read(self) -> Iterator[ManifestFile]:
        """All files of all receipts. Torn lines are passed over."""
        for path in list(self._folder.glob("*.jsonl")):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            for line in content.splitlines():
                try:
                    yield ManifestFile.model_validate_json(line)
                except ValidationError:
                    continue

    def drop(self, model: str, snapshot: str) -> None:
        """The manifest is there: the receipts have done their work."""
        self._path(model, snapshot).unlink(missing_ok=True)

    def sweep(self, older_than: float) -> None:
        """Remove receipts that were not added to for so many seconds."""
        for path in list(self._folder.glob("*.jsonl")):
            try:
                if time.time() - path.stat().st_mtime >= older_than:
                    path.unlink()
            except FileNotFoundError:
                continue
