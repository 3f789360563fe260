"""Finding: content that the store has already, whatever it was fetched for.

Touched here: receipts, which are added to, and what this process knows. Of a blob only its name and
size are looked at, unless nothing speaks of it, or it is in doubt: then it is read.
"""

from __future__ import annotations

import threading

from modelcache.api import ManifestFile
from modelcache.store.blobs import Blobs
from modelcache.store.knowing import Known
from modelcache.store.proving import Proving
from modelcache.store.receipts import Receipts
from modelcache.store.verifying import describe


class Finding:
    """Finds content of a root. Safe for threads, and beside other processes."""

    def __init__(self, *, blobs: Blobs, known: Known, receipts: Receipts, proving: Proving) -> None:
        """`known` is this one's alone."""
        self._blobs = blobs
        self._known = known
        self._receipts = receipts
        self._proving = proving
        self._mutex = threading.Lock()

    def find(
        self, identity: str, digest: str | None, size: int, *, fresh: bool = False
    ) -> ManifestFile | None:
        """Content that the store has: by its digest, where that is known, else by its identity.

        `fresh` reads what other processes have noted in the last moment.

        Returns:
            What is known of it, under a path that it has in some model; None when it isn't there.
        """
        with self._mutex:
            file = self._known.of(identity, digest, fresh=fresh)
        digest = digest or (file.sha256 if file else None)
        if digest is None or not self._blobs.has(digest, size):
            return None
        if file is None:
            # A blob that nothing speaks of: a kill came between its name and the note.
            file = describe(self._blobs, digest, size, identity)
            if file is not None:
                with self._mutex:
                    self._known.add(file)
        return file if file is not None and self._proving.prove(file) else None

    def record(self, name: str, snapshot: str, file: ManifestFile) -> None:
        """Note that a file of a snapshot being fetched has its blob.

        Raises:
            InsufficientDisk: the disk is full.
        """
        self._receipts.append(name, snapshot, file)
        with self._mutex:
            self._known.add(file)

    def noted(self, name: str, snapshot: str) -> list[ManifestFile]:
        """What was noted for a snapshot being fetched, as far as it is there still."""
        files = dict(self._receipts.of_model(name)).get(snapshot, [])
        return [f for f in files if self._blobs.has(f.sha256, f.size) and self._proving.prove(f)]
