"""Scrubbing: every blob is read back now and then, so that rot is found before an engine loads it.

One at a time, slowly, at the lowest I/O priority, past the page cache, and not while anything is
being fetched. What is bad is withdrawn and goes into quarantine: the reconciler finds it missing,
and fetches it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from modelcache.api import Manifest, ManifestFile
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.starts.using import InUse
from modelcache.errors import InsufficientDisk, NotFound
from modelcache.host.ioprio import io_priority
from modelcache.metrics import ScrubMetrics
from modelcache.planning.scrubbing import Stored, in_order
from modelcache.service.diskwatch import DiskWatch
from modelcache.service.evictionnews import NodeEvents
from modelcache.store import Damage, Reading, Store
from modelcache.transfer import Cancel
from modelcache.transfer.limiting import Bandwidth

log = structlog.get_logger(__name__)

_SLICE_SECONDS: Final = 10.0
"""A round reads for so long, then shows that it is alive."""
_PAUSE_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 300.0
_HEAL_SECONDS: Final = 10.0
_FAILED_SECONDS: Final = 3600.0
_CHECK_BYTES: Final = 16 * 1024 * 1024
"""So often a blob being read is looked for: one that was evicted is to be free, too."""


class _Paused(Exception):
    """Go on later where this left off."""


class Scrubber:
    """Reads blobs back. `cycle` is a task's."""

    def __init__(
        self,
        *,
        store: Store,
        holding: Holding,
        every: float | None,
        rate: float,
        busy: Callable[[], bool],
        disk: DiskWatch,
        metrics: ScrubMetrics,
        cancel: Cancel,
        on_damage: Callable[[], None],
        told: NodeEvents | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read nothing yet.

        Args:
            store, holding: what is read back.
            every: seconds between two times for each blob; None: never.
            rate: bytes a second at most.
            busy: whether something is being fetched.
            disk: asked whether it is out of order, and told of what it fails to read.
            metrics: told what is read and found.
            cancel: stops it.
            on_damage: called when something was withdrawn.
            told: told of what was found damaged in a model, and of what is whole again.
            clock: gives seconds since the epoch.
        """
        self._store = store
        self._holding = holding
        self._every = every
        self._bandwidth = Bandwidth(rate)
        self._busy = busy
        self._disk = disk
        self._metrics = metrics
        self._cancel = cancel
        self._on_damage = on_damage
        self._told = told
        self._clock = clock
        self._own: dict[str, float] = {}
        """What this process has read back, and when. The log may have no room for it."""
        self._failed: dict[str, float] = {}
        """Blobs that could not be read for want of something else than the disk, and when."""
        self._current: tuple[Stored, Reading] | None = None
        self._ends_at = 0.0
        self._healing: set[str] | None = None
        """What is in quarantine and not whole again."""

    def cycle(self) -> float:
        """Read for some seconds, if anything is due.

        Returns:
            Seconds until the next round is due.
        """
        wait = self._cycle()
        self._watch_quarantine()
        return min(wait, _HEAL_SECONDS) if self._healing else wait

    def _cycle(self) -> float:
        if self._every is None:
            return _LOOK_SECONDS
        if self._busy() or self._disk.is_down:
            return _PAUSE_SECONDS
        now = self._clock()
        blobs = {
            path.name: Stored(path.name, found.st_size, found.st_mtime)
            for path, found in self._store.blobs.all()
        }
        self._failed = {d: at for d, at in self._failed.items() if now - at < _FAILED_SECONDS}
        order = [
            (due, blob)
            for due, blob in in_order(blobs, self._known(), self._every, now)
            if blob.digest not in self._failed
        ]
        self._ends_at = time.monotonic() + _SLICE_SECONDS
        try:
            with io_priority("idle"):
                for due, blob in order:
                    if due > now:
                        return min(_LOOK_SECONDS, due - now)
                    self._scrub(blob)
        except _Paused:
            return _PAUSE_SECONDS if self._busy() else 0.0
        finally:
            self._store.scrub_log.sync()
            self._rewrite(blobs)
            known = self._known()
            whole = (known.get(d, each.arrived) for d, each in blobs.items())
            self._metrics.oldest(min(whole, default=now))
        return _LOOK_SECONDS

    def _known(self) -> dict[str, float]:
        return {**self._store.scrub_log.read(), **self._own}

    def _rewrite(self, blobs: dict[str, Stored]) -> None:
        self._own = {d: at for d, at in self._own.items() if d in blobs}
        with suppress(InsufficientDisk):  # it stays as long as it is
            self._store.scrub_log.rewrite(self._known(), blobs)

    def _stop(self) -> None:
        """Between two reads: whether to go on.

        Raises:
            Cancelled, _Paused
        """
        self._cancel.check()
        if time.monotonic() >= self._ends_at or self._busy():
            raise _Paused

    def _scrub(self, blob: Stored) -> None:
        """Read one blob, and do what follows from that.

        Raises:
            Cancelled, _Paused: it goes on there with the next call.
        """
        path = self._store.blobs.path(blob.digest)
        owners = self._owners(blob.digest)
        if self._current is None or self._current[0] != blob:
            chunks = owners[0][1].chunks if owners else ()
            size = owners[0][1].size if owners else None
            self._current = blob, Reading(path, blob.digest, size, chunks)
        _, reading = self._current
        unlooked = 0

        def on_bytes(size: int) -> None:
            nonlocal unlooked
            self._metrics.read(size)
            unlooked += size
            if unlooked >= _CHECK_BYTES:
                unlooked = 0
                path.lstat()
            self._bandwidth.take(size, self._cancel)

        try:
            reading.go_on(on_bytes, self._stop)
            damage = reading.damage(blob.digest)
        except FileNotFoundError:
            self._current = None  # evicted a moment ago
            return
        except OSError as error:
            self._current = None
            self._failed[blob.digest] = self._clock()
            log.warning("scrub.failed", blob=blob.digest, message=str(error))
            return
        self._current = None
        if damage is None:
            self._note_whole(blob.digest)
            self._check_views(owners)
            return
        if damage.unreadable and self._disk.is_down_now(damage.what):
            raise _Paused  # the disk is out of order, and not the blob
        self._withdraw(blob, owners, damage)

    def _owners(self, digest: str) -> list[tuple[Manifest, ManifestFile]]:
        return [
            (manifest, file)
            for manifest in self._store.manifests()
            for file in manifest.files
            if file.sha256 == digest
        ]

    def _note_whole(self, digest: str) -> None:
        self._own[digest] = now = self._clock()
        self._store.note_checked(digest, now)

    def _check_views(self, owners: list[tuple[Manifest, ManifestFile]]) -> None:
        for manifest, file in owners:
            try:
                damage = self._store.check_view(manifest, file, stop=self._cancel.check)
            except OSError:
                continue  # a look tells that it is gone
            if damage is not None:
                self._tell(manifest.model, damage)
                self._store.withdraw(manifest, [damage])
                self._on_damage()

    def _withdraw(
        self, blob: Stored, owners: list[tuple[Manifest, ManifestFile]], damage: Damage
    ) -> None:
        path = self._store.blobs.path(blob.digest)
        inode = path.lstat().st_ino
        if owners:
            manifest, file = owners[0]
            self._tell(manifest.model, damage, file.path)
            self._store.withdraw(manifest, [damage])
        else:
            self._tell("", damage)
            self._store.blobs.set_aside(blob.digest)
        self._remove_bundles(inode)
        self._on_damage()

    def _remove_bundles(self, inode: int) -> None:
        """A bundle's archive is a link to its blob: it is fetched again, from its place."""
        for held in self._holding.all():
            try:
                if held.archive.lstat().st_ino != inode:
                    continue
                self._holding.remove(held.name, held.key, held.digest)
            except (NotFound, FileNotFoundError):
                continue
            except InUse:
                # Whoever is seeded from it compares its content with its digest, too.
                self._holding.remove(held.name, held.key, held.digest, force=True)
            log.error("bundle.damaged", compile_cache=held.name, digest=held.digest)

    def _tell(self, model: str, damage: Damage, path: str = "") -> None:
        self._metrics.damaged()
        log.error(
            "blob.damaged",
            model=model or None,
            path=path or damage.path,
            blob=damage.sha256,
            message=damage.what,
            ranges=[list(each) for each in damage.ranges[:16]],
        )
        self._record(
            model, "Warning", "FileDamaged", f"a damaged file was withdrawn: {damage.what}"
        )

    def _record(self, model: str, type_: str, reason: str, note: str) -> None:
        # What belongs to no model is nobody's who would look for it among events.
        if self._told is not None and model:
            self._told.tell(type_, reason, "Scrub", f"{model}: {note}", model)

    def _watch_quarantine(self) -> None:
        """Tell of what is whole again."""
        found = self._store.quarantine.all()
        self._metrics.quarantined([each.bytes for each in found])
        quarantined = {each.digest: each.model for each in found}
        there = {each for each in quarantined if self._store.blobs.path(each).exists()}
        # What was healed before this process is no news.
        for digest in there & (self._healing or set()):
            self._metrics.healed()
            log.info("blob.healed", blob=digest)
            self._record(
                quarantined[digest], "Normal", "FileHealed", "a damaged file is whole again"
            )
        self._healing = set(quarantined) - there
