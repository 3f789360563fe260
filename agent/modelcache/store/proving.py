"""Proving: when a blob was read back, and which of a copied root still must be.

Touched here: the log of what was read back, and the list of what is in doubt. What turns out to be
bad is withdrawn, and where nothing shows it its blob is set aside.
"""

from __future__ import annotations

import time
from contextlib import suppress

from modelcache.api import ManifestFile
from modelcache.errors import InsufficientDisk
from modelcache.store.blobs import Blobs
from modelcache.store.manifests import Manifests
from modelcache.store.scrublog import ScrubLog
from modelcache.store.unproven import Unproven
from modelcache.store.verifying import read_back
from modelcache.store.withdrawing import Withdrawing


class Proving:
    """Which blobs of a root are proven. Safe for threads, and beside other processes."""

    def __init__(
        self,
        *,
        blobs: Blobs,
        manifests: Manifests,
        scrub_log: ScrubLog,
        unproven: Unproven,
        withdrawing: Withdrawing,
    ) -> None:
        self._blobs = blobs
        self._manifests = manifests
        self._scrub_log = scrub_log
        self._unproven = unproven
        self._withdrawing = withdrawing

    def note(self, digest: str, at: float | None = None) -> None:
        """Note that a blob was read back, and is whole: now, or so many seconds since the epoch."""
        with suppress(InsufficientDisk, OSError):  # it is read back sooner than need be
            self._scrub_log.note(digest, time.time() if at is None else at)
        with suppress(InsufficientDisk, OSError):  # it is read back once more
            self._unproven.drop({digest})

    def prove(self, file: ManifestFile) -> bool:
        """Whether a blob is what it should be. Only what came with a copied root is read for it."""
        if file.sha256 not in self._unproven.all():
            return True
        damage = read_back(self._blobs.path(file.sha256), file, lambda _: None)
        if damage is None:
            self.note(file.sha256)
            return True
        owners = [m for m in self._manifests.all() if any(f.sha256 == file.sha256 for f in m.files)]
        if owners:
            self._withdrawing.withdraw(owners[0], [damage])
        else:
            self._blobs.set_aside(file.sha256)
        return False
