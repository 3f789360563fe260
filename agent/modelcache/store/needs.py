"""Needs: archives that fetches have use for still, so that none removes them from under another.

Models of the same image with other selections share its archives while each unpacks its own part.
The need of a fetch that failed stays, for its next try; one that nobody comes back for is swept.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from modelcache.store.durable import Durable, disk_errors
from modelcache.store.notes import read_note
from modelcache.store.paths import children

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES: Final = 16 * 1024 * 1024
"""More than twice what the layers of an image may come to (`origins.ocimanifests`)."""


class Needs:
    """The needs of a root: for each snapshot being fetched a file with digests."""

    def __init__(self, folder: Path, durable: Durable) -> None:
        self._folder = folder
        self._durable = durable

    def _path(self, model: str, snapshot: str) -> Path:
        return self._folder / f"{model}.{snapshot}"

    def note(self, model: str, snapshot: str, digests: Iterable[str]) -> None:
        """Note what a fetch needs, in place of what it needed.

        Raises:
            InsufficientDisk: the disk is full.
        """
        content = "\n".join(digests).encode()
        with disk_errors(len(content)):
            self._durable.write_file(self._path(model, snapshot), content)

    def touch(self, model: str, snapshot: str) -> None:
        """The fetch goes on: `sweep` is to see it."""
        with suppress(FileNotFoundError):
            os.utime(self._path(model, snapshot))

    def drop(self, model: str, snapshot: str) -> None:
        """Nothing is needed any more."""
        self._path(model, snapshot).unlink(missing_ok=True)

    def of_others(self, model: str, snapshot: str) -> set[str]:
        """What all other fetches need."""
        mine = self._path(model, snapshot)
        return set(_digests(path for path in children(self._folder) if path != mine))

    def of_all(self) -> set[str]:
        """What any fetch needs."""
        return set(_digests(children(self._folder)))

    def all(self) -> Iterator[tuple[str, str, set[str], float]]:
        """Every model's snapshot that needs something, the digests, and when it was last at work,
        in seconds since the epoch."""
        for path in children(self._folder):
            with suppress(FileNotFoundError):
                model, _, snapshot = path.name.partition(".")
                yield model, snapshot, set(_digests([path])), path.stat().st_mtime

    def drop_model(self, model: str) -> set[str]:
        """Nothing is needed any more for any snapshot of a model.

        Returns:
            The digests of what was.
        """
        paths = [p for p in children(self._folder) if p.name.partition(".")[0] == model]
        digests = set(_digests(paths))
        for path in paths:
            path.unlink(missing_ok=True)
        return digests

    def sweep(self, older_than: float) -> None:
        """Remove what was not touched for so many seconds."""
        for path in children(self._folder):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime >= older_than:
                    path.unlink()


def _digests(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        with suppress(FileNotFoundError, ValueError):
            content = read_note(path, _MOST_BYTES).decode("ascii", "replace")
            yield from _DIGEST.findall(content)
