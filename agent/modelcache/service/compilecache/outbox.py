"""Bundles that were made on this node and are not at their place yet: a note for each, durable."""

from __future__ import annotations

import json
import time
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout
from modelcache.store.paths import children

_FOLDER: Final = "outbox"
_TRIES: Final = 10


class Outbox:
    """The notes below one root. Safe for threads."""

    def __init__(self, layout: Layout, durable: Durable) -> None:
        self._folder = layout.ingest / _FOLDER
        self._durable = durable

    def put(self, name: str, digest: str) -> None:
        """Note that a bundle of a compile cache is to be published. Before it is shown.

        Raises:
            InsufficientDisk: the disk is full.
        """
        with disk_errors():
            content = json.dumps({"digest": digest}).encode() + b"\n"
            for _ in range(_TRIES - 1):
                with suppress(FileNotFoundError):
                    return self._put(name, digest, content)
                # `take` has removed the last note of the object, and the folder with it.
            return self._put(name, digest, content)

    def _put(self, name: str, digest: str, content: bytes) -> None:
        self._durable.make_directory(self._folder / name)
        self._durable.write_file(self._path(name, digest), content)

    def of(self, name: str) -> frozenset[str]:
        """Digests (`sha256:…`) of the bundles of a compile cache that are to be published."""
        found = children(self._folder / name)
        return frozenset(f"sha256:{path.stem}" for path in found if path.suffix == ".json")

    def sweep(self, held: Container[tuple[str, str]], older_than: float = 3600.0) -> None:
        """Remove notes of bundles that never came, or have gone.

        Args:
            held: (compile cache, `sha256:…`) of the bundles on this node.
            older_than: seconds: a note comes before its bundle.
        """
        for folder in children(self._folder):
            for path in children(folder):
                digest = f"sha256:{path.stem}"
                try:
                    age = time.time() - path.lstat().st_mtime
                except FileNotFoundError:
                    continue
                if age >= older_than and (folder.name, digest) not in held:
                    self.take(folder.name, digest)

    def take(self, name: str, digest: str) -> None:
        """It was published, or never will be."""
        self._durable.unlink(self._path(name, digest))
        self._durable.remove_if_empty(self._folder / name)

    def _path(self, name: str, digest: str) -> Path:
        return self._folder / name / f"{digest.removeprefix('sha256:')}.json"
