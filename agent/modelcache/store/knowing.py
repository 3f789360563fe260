"""What content the store has heard of, and under what names."""

from __future__ import annotations

import time

from modelcache.api import Manifest, ManifestFile
from modelcache.store.manifests import Manifests
from modelcache.store.receipts import Receipts

_LEARN_SECONDS = 1.0


class Known:
    """Files by digest and by identity, from manifests and receipts. Not safe for threads.

    What is known may have been evicted since: look for the blob.
    """

    def __init__(self, manifests: Manifests, receipts: Receipts) -> None:
        self._manifests = manifests
        self._receipts = receipts
        self._files: dict[str, ManifestFile] = {}
        self._learned: dict[tuple[str, str], Manifest] = {}
        self._learned_at = float("-inf")

    def of(self, identity: str, digest: str | None, *, fresh: bool) -> ManifestFile | None:
        """The file with a digest, or, without one, with an identity."""
        if fresh or time.monotonic() - self._learned_at >= _LEARN_SECONDS:
            self._learn()
        return self._files.get(f"sha256:{digest}" if digest else identity)

    def add(self, file: ManifestFile) -> None:
        """Take up one file."""
        self._files[file.identity] = self._files[f"sha256:{file.sha256}"] = file

    def _learn(self) -> None:
        """Take up what any process noted and committed since the last time, and only that."""
        now = {(m.model, m.snapshot): m for m in self._manifests.all()}
        if self._learned.keys() - now.keys():
            # What was evicted is forgotten, so that this doesn't grow for ever.
            self._files, self._learned = {}, {}
            self._receipts.forget()
        for file in self._receipts.news():
            self.add(file)
        for key, manifest in now.items():
            if self._learned.get(key) is not manifest:
                for file in manifest.files:
                    self.add(file)
        self._learned = now
        self._learned_at = time.monotonic()
